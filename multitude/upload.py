"""A PEFT directory as the messages of an upload."""

from collections.abc import Iterator
from pathlib import Path

from multitude.errors import InvalidRequestError
from multitude.v1 import adapter_pb2

FILES = ("adapter_config.json", "adapter_model.safetensors")
CHUNK_BYTES = 1 << 20


def check_directory(directory: Path) -> None:
    """Refuses at once what the store would refuse for a missing file, before anything is sent.

    Errors: InvalidRequestError with reason PEFT_DIRECTORY_INCOMPLETE.
    """
    for name in FILES:
        if not (directory / name).is_file():
            others = sorted(path.name for path in directory.glob("adapter_model.*")) if directory.is_dir() else []
            hint = (
                f"; it has {', '.join(others)}: save with safe_serialization=True" if others and "model" in name else ""
            )
            raise InvalidRequestError(
                f"{directory} has no {name}{hint}; give the folder that PEFT's save_pretrained wrote",
                reason="PEFT_DIRECTORY_INCOMPLETE",
                metadata={"field": name},
            )


def create_requests(
    adapter_id: str, directory: Path, *, base_model: str = "", request_id: str = ""
) -> Iterator[adapter_pb2.CreateAdapterRequest]:
    """The messages of CreateAdapter: a header, then each file in chunks of at most 1 MiB."""
    header = adapter_pb2.CreateAdapterHeader(adapter_id=adapter_id, base_model=base_model, request_id=request_id)
    yield adapter_pb2.CreateAdapterRequest(header=header)
    for name in FILES:
        path = directory / name
        yield adapter_pb2.CreateAdapterRequest(file=adapter_pb2.UploadFile(name=name, size_bytes=path.stat().st_size))
        with path.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield adapter_pb2.CreateAdapterRequest(data=data)
