"""Where ImportAdapter reads from: PEFT directories under the operator's import roots, and nothing else."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from adapter_store.config import Limits
from adapter_store.errors import (
    AdapterNotSafetensors,
    AdapterTooLarge,
    RequestInvalid,
    SourceNotAllowed,
    SourceNotFound,
)
from adapter_store.peft.config import CONFIG_NAME
from adapter_store.peft.directory import FILE_NAMES
from adapter_store.peft.tensors import WEIGHTS_NAME
from adapter_store.upload import PICKLE_SUFFIXES

_COPY_BYTES = 1 << 20


def copy_source(source_uri: str, roots: Sequence[Path], folder: Path, limits: Limits) -> None:
    """Copies the two files of a PEFT directory into `folder`.

    Symbolic links are followed as long as they stay under the roots (a Hugging Face cache is full of them).

    Raises:
        RequestInvalid: `source_uri` is not a file URI.
        SourceNotAllowed: It leads out of the import roots, at any link on the way.
        SourceNotFound: It is allowed, and one of the two files is not there.
        AdapterNotSafetensors: There are weights, as a pickle.
        AdapterTooLarge: A file is longer than allowed.
    """
    allowed = [root.resolve() for root in roots]
    directory = _resolve(_path(source_uri), allowed)
    if not directory.is_dir():
        raise SourceNotFound(f"{source_uri} is not a folder on the store's machine", field="source_uri")
    _require_safetensors(directory)
    for name in FILE_NAMES:
        most = limits.max_config_bytes if name == CONFIG_NAME else limits.max_adapter_bytes
        _copy(_resolve(directory / name, allowed), allowed, folder / name, most)


def _path(source_uri: str) -> Path:
    try:
        uri = urlsplit(source_uri)
        path = unquote(uri.path, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise RequestInvalid(f"{source_uri!r} is not a URI", field="source_uri") from None
    if uri.scheme != "file" or uri.netloc not in ("", "localhost") or uri.query or uri.fragment:
        raise RequestInvalid(
            f"{source_uri!r} is not supported; write file:///path of a folder under an import root", field="source_uri"
        )
    if not path.startswith("/") or "\0" in path:
        raise RequestInvalid(f"{source_uri!r} must hold an absolute path", field="source_uri")
    return Path(path)


def _resolve(path: Path, roots: Sequence[Path]) -> Path:
    """The path without links and dots; refused outside the roots before anything says whether it is there."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):
        raise SourceNotFound(f"{path} cannot be followed: its links form a loop", field="source_uri") from None
    if not any(resolved.is_relative_to(root) for root in roots):
        raise SourceNotAllowed(
            f"{path} is not under an import root of this store; copy it there, or upload it with CreateAdapter",
            field="source_uri",
        )
    return resolved


def _require_safetensors(directory: Path) -> None:
    if (directory / WEIGHTS_NAME).exists():
        return
    stem = WEIGHTS_NAME.partition(".")[0]
    for suffix in PICKLE_SUFFIXES:
        if (directory / (stem + suffix)).exists():
            raise AdapterNotSafetensors(
                f"{directory} holds {stem}{suffix}, a pickle, which can run code; save the adapter with "
                "safe_serialization=True",
                field="source_uri",
            )


def _copy(path: Path, roots: Sequence[Path], target: Path, most: int) -> None:
    with _open_regular(path, roots) as source, target.open("xb") as copy:
        left = most
        while data := source.read(min(_COPY_BYTES, left + 1)):
            left -= len(data)
            if left < 0:
                raise AdapterTooLarge(f"{path} has more than the {most} bytes allowed", field="source_uri")
            copy.write(data)


def _open_regular(path: Path, roots: Sequence[Path]) -> IO[bytes]:
    """Opens a resolved path, and looks again where it led: a folder may have become a link in between."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SourceNotFound(f"{path} is not there", field="source_uri") from None
    except OSError as error:
        raise SourceNotFound(f"{path} cannot be read: {error.strerror}", field="source_uri") from None
    try:
        _require_regular(descriptor, path, roots)
    except (SourceNotAllowed, SourceNotFound):
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _require_regular(descriptor: int, path: Path, roots: Sequence[Path]) -> None:
    opened_as = Path(f"/proc/self/fd/{descriptor}")
    if opened_as.is_symlink() and not any(opened_as.readlink().is_relative_to(root) for root in roots):
        raise SourceNotAllowed(f"{path} changed while it was opened", field="source_uri")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise SourceNotFound(f"{path} is not a regular file", field="source_uri")
