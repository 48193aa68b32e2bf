"""PEFT directories: read, checked against the base model, and rewritten in one canonical form."""
