"""How fast the kernels are, beside their floors and their peers, in one run on one GPU."""
