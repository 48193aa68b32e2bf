"""The workers: found by their leases, one stream to each."""
