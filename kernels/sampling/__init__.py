"""From logits to tokens, for rows with different parameters."""
