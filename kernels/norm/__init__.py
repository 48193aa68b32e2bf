"""RMSNorm, alone or with what stands before it in a layer."""

from kernels.norm.op import add_rms_norm, gather_rms_norm, rms_norm

__all__ = ["add_rms_norm", "gather_rms_norm", "rms_norm"]
