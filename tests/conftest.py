import os

import torch

# Without a GPU, kernels run in Triton's interpreter. Triton reads this when it is imported, which many packages do.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
