"""Content-addressed files: one per digest, written aside, made durable, and only then given their name."""

import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from adapter_store.errors import BlobCorrupt
from adapter_store.types import DIGEST_PREFIX


class StagedBlob:
    """A blob being written; it has no name yet, and a crash leaves nothing but a file that the next start removes."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._sha = hashlib.sha256()
        self.path = path
        self.size_bytes = 0

    def write(self, data: bytes | memoryview, /) -> None:
        """Appends bytes."""
        self._file.write(data)
        self._sha.update(data)
        self.size_bytes += len(data)

    @property
    def digest(self) -> str:
        """The digest of what has been written."""
        return DIGEST_PREFIX + self._sha.hexdigest()

    def make_durable(self) -> None:
        """Brings what has been written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())


class BlobReader:
    """An open blob. It stays readable after the blob was removed; close it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Up to `num_bytes` from `offset`; fewer only at the end."""
        return os.pread(self._file.fileno(), num_bytes, offset)

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()


class Blobs:
    """The blobs under a folder: `blobs/<first two hex digits>/<hex>`, and `staging/` for those being written."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._staging = folder / "staging"
        for path in (self._blobs, self._staging):
            path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def stage(self) -> Iterator[StagedBlob]:
        """A new blob to write; what has not been adopted by the end is removed."""
        with tempfile.NamedTemporaryFile(dir=self._staging, delete=False) as file:
            path = Path(file.name)
            try:
                yield StagedBlob(file.file, path)
            finally:
                path.unlink(missing_ok=True)

    def adopt(self, staged: StagedBlob) -> None:
        """Gives a durable blob its name; the same content under that name is replaced, readers of it go on."""
        path = self._path(staged.digest)
        if not path.parent.is_dir():
            path.parent.mkdir()
            _sync_folder(self._blobs)
        staged.path.replace(path)
        _sync_folder(path.parent)

    def open(self, digest: str, expected_bytes: int) -> BlobReader:
        """Opens a blob.

        Raises:
            BlobCorrupt: The file is not there, or has another length.
        """
        try:
            reader = BlobReader(self._path(digest))
        except OSError as error:
            raise BlobCorrupt(f"the weights of {digest} cannot be read: {error.strerror}", digest=digest) from None
        if reader.size_bytes != expected_bytes:
            reader.close()
            raise BlobCorrupt(f"the weights of {digest} have {reader.size_bytes} bytes, not {expected_bytes}")
        return reader

    def remove(self, digest: str) -> None:
        """Removes a blob, if it is there."""
        self._path(digest).unlink(missing_ok=True)

    def collect(self, referenced: Collection[str]) -> int:
        """Removes every blob that is not referenced and everything staged; only while nothing is being written.

        Returns:
            How many files were removed.
        """
        keep = {self._path(digest) for digest in referenced}
        garbage = [path for path in self._blobs.glob("*/*") if path not in keep]
        garbage += self._staging.iterdir()
        for path in garbage:
            path.unlink()
        return len(garbage)

    def _path(self, digest: str) -> Path:
        name = digest.removeprefix(DIGEST_PREFIX)
        return self._blobs / name[:2] / name


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
