"""A model directory of a few kilobytes: a byte-level tokenizer, a chat template, no weights."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel

CONTEXT_LENGTH = 128
BOS = "<|begin|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{{ '<|begin|>' + message['role'] + ':' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|begin|>assistant:' }}{% endif %}"
)


def write_model(folder: Path, *, template: str | None = TEMPLATE, context_length: int = CONTEXT_LENGTH) -> Path:
    """Writes the directory: one token for each byte after the special one, which text begins with."""
    vocabulary = {BOS: 0} | {symbol: index + 1 for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    # A prompt must be encoded as it is, whatever the file says about cutting and filling.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS}
    if template is not None:
        tokenizer_config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    config = {"model_type": "llama", "vocab_size": len(vocabulary), "max_position_embeddings": context_length}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
