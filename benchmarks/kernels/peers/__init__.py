"""Other projects' LoRA ops, run from their published wheels' Python files, which are unpacked beside the run."""
