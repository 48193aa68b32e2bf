"""Deadlines and fairness in virtual time: the S-LoRA paper's traces on servers like its own, and tenants that flood."""
