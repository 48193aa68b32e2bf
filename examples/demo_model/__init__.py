"""The demo model: a small Llama base and its LoRA adapters, each fine-tuned for a task whose answers can be checked."""
