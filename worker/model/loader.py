"""Loads a Hugging Face model directory."""

from dataclasses import dataclass
from pathlib import Path

import torch

from worker.model.checkpoint import Checkpoint
from worker.model.config import ModelConfig, read_config
from worker.model.decoder import Decoder
from worker.model.weights import read_weights


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what it is."""

    config: ModelConfig
    decoder: Decoder


def load_model(directory: Path, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """Reads the configuration and weights, cast to `dtype`, onto `device`.

    Raises:
        ModelNotFound, ModelConfigInvalid, ModelUnsupported, ModelWeightsInvalid: as their docstrings say.
    """
    config = read_config(directory)
    weights = read_weights(Checkpoint(directory), config, dtype, device)
    return LoadedModel(config, Decoder(config, weights))
