"""The public face of Multitude: the Python client and the `multitude` command."""

from multitude.aio import AsyncClient, AsyncGenerationStream
from multitude.client import Client, GenerationStream
from multitude.errors import MultitudeError
from multitude.types import (
    Adapter,
    AdapterVersion,
    FinishReason,
    Fleet,
    Generation,
    Message,
    Model,
    PolicyCheck,
    PolicyProblem,
    SamplingParams,
    StopConditions,
    TokenChunk,
)

__all__ = [
    "Adapter",
    "AdapterVersion",
    "AsyncClient",
    "AsyncGenerationStream",
    "Client",
    "FinishReason",
    "Fleet",
    "Generation",
    "GenerationStream",
    "Message",
    "Model",
    "MultitudeError",
    "PolicyCheck",
    "PolicyProblem",
    "SamplingParams",
    "StopConditions",
    "TokenChunk",
]
