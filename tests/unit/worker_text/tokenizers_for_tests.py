"""Small tokenizers of the kinds that the supported models use, with tokens that cut characters in pieces."""

from tokenizers import AddedToken, Tokenizer, decoders, models

from worker.text.vocabulary import byte_alphabet

SAMPLE = "héllo wörld 🎉👩‍👩‍👧 日本語 한국어 ‱ \n\t end stop"


def byte_level() -> Tokenizer:
    """As Llama 3, Qwen and the demo model: every byte is a token, and so are odd pieces of characters."""
    char_of = {byte: char for char, byte in byte_alphabet().items()}
    pieces = [bytes([byte]) for byte in range(256)]
    data = SAMPLE.encode()
    for width in (2, 3, 5):
        pieces += [data[i : i + width] for i in range(0, len(data) - width, 2)]
    tokens = dict.fromkeys("".join(char_of[byte] for byte in piece) for piece in pieces)
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool>"), AddedToken("日 本"), AddedToken("é")])
    return tokenizer


def sentencepiece_style() -> Tokenizer:
    """As Llama 2 and Mistral: spaces are part of tokens, and unknown characters become raw bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", "▁▁", "▁hello", "▁stop", "st", "op", "end", "▁the", "日", "本", "!", "\n", "é"]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def metaspace() -> Tokenizer:
    """As early conversions of Llama: the same spaces, another decoder."""
    tokens = ["<s>", "▁", "▁hello", "▁stop", "st", "op", "end", "▁the", "日", "!", "é"]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer
