"""Prompts to token ids: the model's tokenizer and chat template."""
