"""Catalog and blobs together: visible means durable and complete; nothing unnamed stays."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from adapter_store import blobs as blobs_module
from adapter_store.config import Limits
from adapter_store.errors import (
    AdapterNotFinite,
    AdapterNotFound,
    BlobCorrupt,
    ConfigInvalid,
    TooManyVersions,
    VersionNotFound,
)
from adapter_store.library import Library
from adapter_store.types import BaseModel, Module
from tests.unit.adapter_store.peft_directories import (
    MODEL,
    SHAPE,
    adapter_config,
    adapter_tensors,
    tensor_name,
    write_directory,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        self.now += 1
        return self.now


def open_library(folder: Path, model: BaseModel = MODEL, **limits: int) -> Library:
    return Library(folder / "data", model, Limits(**limits), Clock())


def stored_files(folder: Path) -> set[str]:
    """Digests of the blobs on disk, and names of anything else that was left."""
    data = folder / "data"
    blobs = {f"sha256:{path.name}" for path in (data / "blobs").glob("*/*")}
    return blobs | {path.name for path in (data / "staging").iterdir()}


def directory(folder: Path, seed: int) -> Path:
    return write_directory(folder / f"adapter{seed}", tensors=adapter_tensors(seed=seed))


def test_versions_are_newest_first_and_publishing_twice_is_one(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    first = library.publish("a/b", directory(tmp_path, 1), "")
    second = library.publish("a/b", directory(tmp_path, 2), "")
    again = library.publish("a/b", directory(tmp_path, 1), "")
    assert (first.created, second.created, again.created) == (True, True, False)
    assert again.version == first.version
    assert again.adapter.versions == (second.version, first.version)
    assert again.adapter.latest == second.version
    assert first.version.rank == 4
    assert first.version.target_modules == (Module.Q, Module.V)
    assert stored_files(tmp_path) == {first.version.digest, second.version.digest}
    reader = library.open_weights(first.version.digest)
    assert len(reader.read(0, 1 << 20)) == reader.size_bytes == first.version.size_bytes
    reader.close()
    library.close()


def test_shared_weights_survive_while_an_adapter_names_them(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    one = library.publish("a/one", directory(tmp_path, 1), "").version
    two = library.publish("a/two", directory(tmp_path, 1), "").version
    assert one.digest == two.digest
    assert library.delete("a/one", None) == 0
    with pytest.raises(AdapterNotFound):
        library.get("a/one")
    library.open_weights(two.digest).close()
    reader = library.open_weights(two.digest)
    assert library.delete("a/two", two.digest) == 1
    assert stored_files(tmp_path) == set()
    assert len(reader.read(0, 10)) == 10  # who has it open reads on
    reader.close()
    with pytest.raises(VersionNotFound):
        library.open_weights(two.digest)
    with pytest.raises(AdapterNotFound):
        library.get("a/two")
    library.close()


def test_deleting_what_is_not_there(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    version = library.publish("a/b", directory(tmp_path, 1), "").version
    with pytest.raises(AdapterNotFound):
        library.delete("a/c", None)
    with pytest.raises(VersionNotFound):
        library.delete("a/b", "sha256:" + "0" * 64)
    assert library.get("a/b").versions == (version,)
    library.close()


def test_refused_adapter_leaves_nothing(tmp_path: Path) -> None:
    library = open_library(tmp_path, max_versions_per_adapter=1)
    tensors = adapter_tensors()
    tensors[tensor_name(2, Module.V, "B")][-1, -1] = float("nan")  # found when all but one number is written
    with pytest.raises(AdapterNotFinite):
        library.publish("a/b", write_directory(tmp_path / "nan", tensors=tensors), "")
    assert stored_files(tmp_path) == set()
    version = library.publish("a/b", directory(tmp_path, 1), "").version
    with pytest.raises(TooManyVersions):
        library.publish("a/b", directory(tmp_path, 2), "")
    assert library.publish("a/b", directory(tmp_path, 1), "").created is False
    assert stored_files(tmp_path) == {version.digest}
    library.close()


def test_restart_keeps_everything(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    for seed in range(3):
        library.publish(f"a/{seed % 2}", directory(tmp_path, seed), "")
    before = [library.get("a/0"), library.get("a/1")]
    library.close()
    library = open_library(tmp_path)
    assert [library.get("a/0"), library.get("a/1")] == before
    for adapter in before:
        for version in adapter.versions:
            library.open_weights(version.digest).close()
    library.close()


class Crash(BaseException):
    """The process ends here: nothing after it runs, not even clean-up that a real crash would skip."""


@pytest.mark.parametrize("moment", ["before rename", "after rename", "before commit"])
def test_crash_leaves_nothing_visible_and_is_collected(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = open_library(tmp_path)
    kept = library.publish("a/kept", directory(tmp_path, 0), "").version
    adopt = library._blobs.adopt

    def crash(staged: blobs_module.StagedBlob) -> None:
        if moment != "before rename":
            adopt(staged)
        raise Crash

    monkeypatch.setattr(library._blobs, "adopt", crash)
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)  # a process that is gone removes nothing
    if moment == "before commit":
        monkeypatch.setattr(library._blobs, "adopt", adopt)
        library._catalog._db.close()
        database = tmp_path / "data" / "catalog.sqlite3"
        library._catalog._db = CrashingDatabase(database)  # type: ignore[assignment]
    with pytest.raises(Crash):
        library.publish("a/lost", directory(tmp_path, 1), "")
    monkeypatch.undo()
    assert len(stored_files(tmp_path)) == 2
    library._guard.close()
    library._catalog._db.close()

    library = open_library(tmp_path)
    assert stored_files(tmp_path) == {kept.digest}
    assert library.page("", "", 10).adapters == (library.get("a/kept"),)
    with pytest.raises(AdapterNotFound):
        library.get("a/lost")
    library.close()


class CrashingDatabase:
    """A database whose process ends at COMMIT."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)

    def execute(self, statement: str, *arguments: object) -> object:
        if statement in ("COMMIT", "ROLLBACK"):
            raise Crash
        return self._db.execute(statement, *arguments)  # type: ignore[arg-type]

    def close(self) -> None:
        self._db.close()


def test_folder_serves_one_store_of_one_model(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    with pytest.raises(ConfigInvalid, match="in use"):
        open_library(tmp_path)
    library.close()
    with pytest.raises(ConfigInvalid, match="base model 'demo'"):
        open_library(tmp_path, BaseModel("other", "llama", SHAPE))
    database = sqlite3.connect(tmp_path / "data" / "catalog.sqlite3")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigInvalid, match="newer"):
        open_library(tmp_path)


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_damaged_weights_are_not_served_and_publishing_again_heals(damage: str, tmp_path: Path) -> None:
    library = open_library(tmp_path)
    version = library.publish("a/b", directory(tmp_path, 1), "").version
    path = next((tmp_path / "data" / "blobs").glob("*/*"))
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, 10)
    with pytest.raises(BlobCorrupt):
        library.open_weights(version.digest)
    library.publish("a/b", directory(tmp_path, 1), "")
    library.open_weights(version.digest).close()
    library.close()


def test_pages_in_order_of_id(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    folders = [directory(tmp_path, seed) for seed in range(2)]
    ids = ["b/1", "a/1", "a/10", "a/2", "ab/c", "a.b/c"]
    for adapter_id in ids:
        for folder in folders:
            library.publish(adapter_id, folder, "")
    everything = [adapter.adapter_id for adapter in library.page("", "", 100).adapters]
    assert everything == sorted(ids)
    assert [adapter.adapter_id for adapter in library.page("", "a/", 100).adapters] == ["a/1", "a/10", "a/2"]
    assert [adapter.adapter_id for adapter in library.page("a/1", "a/", 1).adapters] == ["a/10"]
    first = library.page("", "", 2)
    assert first.next_after == first.adapters[-1].adapter_id
    assert library.page("b/0", "", 2).next_after is None
    assert library.page("", "", len(ids)).next_after is None
    assert all(adapter.versions == library.get(adapter.adapter_id).versions[:1] for adapter in first.adapters)
    library.close()


def test_threads_may_publish_and_delete_at_once(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    folders = [directory(tmp_path, seed) for seed in range(3)]

    def work(name: str) -> None:
        for _ in range(5):
            for folder in folders:
                digest = library.publish(name, folder, "").version.digest
                library.open_weights(digest).close()
            library.delete(name, None)
        library.publish(name, folders[0], "")

    threads = [threading.Thread(target=work, args=(f"a/{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(adapter.versions) for adapter in library.page("", "", 9).adapters] == [1, 1, 1, 1]
    assert stored_files(tmp_path) == {library.get("a/0").latest.digest}
    library.close()


def test_config_of_one_adapter_changes_the_digest(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    plain = library.publish("a/b", write_directory(tmp_path / "plain"), "")
    scaled = library.publish("a/b", write_directory(tmp_path / "scaled", adapter_config(use_rslora=True)), "")
    assert plain.version.digest != scaled.version.digest
    library.close()
