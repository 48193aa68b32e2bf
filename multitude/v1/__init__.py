"""Generated from protos/multitude/v1 by `make protos`; do not edit."""
