"""What drives the pure director: one loop, one outbox for each stream, and the policy file's watch."""
