"""Loads a Hugging Face model directory."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch

from worker.model.checkpoint import Checkpoint
from worker.model.config import ModelConfig, read_config
from worker.model.decoder import Decoder
from worker.model.dummy import DummyCheckpoint
from worker.model.weights import Tensors, expected_shapes, read_weights


class LoadFormat(Enum):
    """Where weights come from."""

    SAFETENSORS = "safetensors"
    DUMMY = "dummy"  # nowhere: random numbers of the shapes that config.json says


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what it is."""

    config: ModelConfig
    decoder: Decoder


def load_model(
    directory: Path, dtype: torch.dtype, device: torch.device, load_format: LoadFormat = LoadFormat.SAFETENSORS
) -> LoadedModel:
    """Reads the configuration and weights, cast to `dtype`, onto `device`.

    Raises:
        ModelNotFound, ModelConfigInvalid, ModelUnsupported, ModelWeightsInvalid: as their docstrings say.
    """
    config = read_config(directory)
    tensors: Tensors
    if load_format is LoadFormat.DUMMY:
        tensors = DummyCheckpoint(expected_shapes(config), dtype, device)
    else:
        tensors = Checkpoint(directory)
    return LoadedModel(config, Decoder(config, read_weights(tensors, config, dtype, device)))
