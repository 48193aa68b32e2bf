"""The public face of Multitude: the Python client and the `multitude` command."""
