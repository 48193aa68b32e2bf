"""Others that serve the same workloads, on the same GPU in the same run."""
