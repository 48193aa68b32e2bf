"""LoRA over the page pool."""
