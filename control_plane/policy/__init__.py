"""The policy file: strictly read, and refused with every fault named by its line."""
