"""A tiny model shape, and adapters of it with random weights."""

import hashlib
import json
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from worker.memory.layout import MODULES, AdapterLayout, ModelShape, PageGeometry
from worker.types import AdapterRef, HostedAdapter

SHAPE = ModelShape(num_layers=2, hidden_size=12, num_heads=4, num_kv_heads=2, head_dim=4, intermediate_size=20)
GEOMETRY = PageGeometry(SHAPE, block_size=4)  # pages of 64 elements
BASE_MODEL = "tiny"


def layout_of(*ranks: tuple[int, ...]) -> AdapterLayout:
    """A layout of one tuple of ranks for each layer, and scale 2 everywhere."""
    return AdapterLayout(SHAPE, ranks, tuple((2.0,) * len(MODULES) for _ in ranks))


def hosted(digest: str, num_ranks: int, first_host_page: int = 0) -> HostedAdapter:
    """An adapter of q in layer 0 with `num_ranks` ranks, in host pages that follow each other."""
    layout = layout_of((num_ranks, 0, 0, 0, 0, 0, 0), (0,) * 7)
    pages = range(first_host_page, first_host_page + layout.num_pages(GEOMETRY))
    return HostedAdapter(digest, layout, tuple(pages))


def tensors_of(layout: AdapterLayout, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random matrices under their names in the canonical file."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, ranks in enumerate(layout.ranks):
        for module, rank in enumerate(ranks):
            if rank:
                name, shape = f"layers.{layer}.{MODULES[module]}", layout.shape
                a = torch.randn(rank, shape.in_features(module), generator=generator)
                b = torch.randn(shape.out_features(module), rank, generator=generator)
                tensors |= {f"{name}.lora_A": a.to(dtype), f"{name}.lora_B": b.to(dtype)}
    return tensors


def metadata_of(tensors: Mapping[str, Tensor], scale: float = 2.0) -> dict[str, object]:
    """The metadata object that belongs to the tensors."""
    modules = {name.rpartition(".")[0] for name in tensors}
    return {"format": 1, "base_model": BASE_MODEL, "scales": dict.fromkeys(sorted(modules), scale)}


def canonical_file(tensors: Mapping[str, Tensor], metadata: object = None) -> bytes:
    """The canonical weights file."""
    metadata = metadata_of(tensors) if metadata is None else metadata
    return save(dict(tensors), {"multitude": json.dumps(metadata)})


def ref_to(data: bytes, adapter_id: str = "team/adapter") -> AdapterRef:
    """How the control plane names an adapter whose canonical file is `data`."""
    return AdapterRef(adapter_id, f"sha256:{hashlib.sha256(data).hexdigest()}", rank=4, size_bytes=len(data))
