"""What the control plane reads of a Hugging Face model directory: sizes, tokenizer and chat template, never weights."""

import json
from pathlib import Path
from typing import Any

from control_plane.types import ModelFacts

# Tokenizer classes that are nothing but tokenizer.json. They load without the rest of transformers, which is
# 0.6 s in place of 2.5 s where torch is installed.
GENERIC_TOKENIZER_CLASSES = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})


class ModelDirectoryError(Exception):
    """The model directory lacks something; the message says what."""


def read_facts(path: Path, name: str, context_length: int) -> ModelFacts:
    """Reads config.json; `context_length` 0 takes the model's own. Raises ModelDirectoryError."""
    config = _read_json(path / "config.json")
    vocab_size = _positive(path, config, "vocab_size")
    own_context_length = _positive(path, config, "max_position_embeddings")
    if context_length > own_context_length:
        raise ModelDirectoryError(
            f"model.context_length {context_length} is beyond the model's own {own_context_length}; lower it"
        )
    return ModelFacts(name=name, vocab_size=vocab_size, context_length=context_length or own_context_length)


def load_tokenizer(path: Path) -> Any:
    """Loads the directory's tokenizer as transformers' AutoTokenizer would. Raises ModelDirectoryError.

    The import of transformers happens here, so that nothing else waits for it.
    """
    tokenizer_config_path = path / "tokenizer_config.json"
    declared = _read_json(tokenizer_config_path).get("tokenizer_class") if tokenizer_config_path.exists() else None
    try:
        if declared in GENERIC_TOKENIZER_CLASSES and (path / "tokenizer.json").exists():
            from transformers import PreTrainedTokenizerFast as TokenizerClass  # noqa: PLC0415
        else:
            from transformers import AutoTokenizer as TokenizerClass  # noqa: PLC0415
        tokenizer = TokenizerClass.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelDirectoryError(f"{path}: its tokenizer cannot be loaded: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelDirectoryError(f"{path}: its tokenizer has no tokenizer.json form; add a tokenizer.json")
    return tokenizer


def _positive(path: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelDirectoryError(f"{path / 'config.json'}: {key} must be a positive integer, is {value!r}")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path} does not exist; model.path must be a Hugging Face model directory") from None
    except (OSError, ValueError) as error:
        raise ModelDirectoryError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelDirectoryError(f"{path} must hold a JSON object")
    return content
