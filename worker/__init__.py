"""A worker: one device, one base model, one page pool."""
