"""The base model: its shape, its training, its directory."""

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from examples.demo_model.corpus import Rows
from examples.demo_model.fitting import Schedule, fit
from examples.demo_model.tokenizer import BEGIN_ID, CONTEXT_LENGTH, END_ID, PAD_ID, VOCAB_SIZE, save_tokenizer


def base_config() -> LlamaConfig:
    """Llama with grouped queries, every dimension a multiple of 32; 1.6 million parameters."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=BEGIN_ID,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )


def train_base(rows: Rows, schedule: Schedule, folder: Path, *, seed: int, device: str) -> None:
    """Trains the base from scratch and writes a Hugging Face directory in bfloat16."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(base_config()).to(device)
    fit(model, rows, schedule, seed=seed, label="base")
    model.generation_config = GenerationConfig(bos_token_id=BEGIN_ID, eos_token_id=END_ID, pad_token_id=PAD_ID)
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
