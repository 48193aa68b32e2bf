"""The demo tokenizer: one token per byte, so that any text has tokens, and a chat template."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

BEGIN, END, PAD, USER, ASSISTANT, SYSTEM = SPECIAL_TOKENS = (
    "<|begin|>",
    "<|end|>",
    "<|pad|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
)
BEGIN_ID, END_ID, PAD_ID, USER_ID, ASSISTANT_ID, SYSTEM_ID = range(len(SPECIAL_TOKENS))
CONTEXT_LENGTH = 256

# Ids from len(SPECIAL_TOKENS) to here are spare, so that the bytes begin at a round number.
_FIRST_BYTE_ID = 8
VOCAB_SIZE = _FIRST_BYTE_ID + 256

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE without merges; encoding puts BEGIN in front."""
    spare = [f"<|spare_{index}|>" for index in range(_FIRST_BYTE_ID - len(SPECIAL_TOKENS))]
    names = [*SPECIAL_TOKENS, *spare, *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, *spare])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, BEGIN_ID)]
    )
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": CONTEXT_LENGTH,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
