"""ImportAdapter reads under the import roots, and nowhere else."""

import os
from pathlib import Path

import pytest

from adapter_store.config import Limits
from adapter_store.errors import (
    AdapterNotSafetensors,
    AdapterTooLarge,
    RequestInvalid,
    SourceNotAllowed,
    SourceNotFound,
    StoreError,
)
from adapter_store.sources import copy_source
from tests.unit.adapter_store.peft_directories import write_directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_directory(tmp_path / "root" / "team" / "adapter")
    write_directory(tmp_path / "outside" / "adapter")
    write_directory(tmp_path / "rootless")  # its name begins as the root's does
    return tmp_path / "root"


def copy(uri: str, root: Path, limits: Limits | None = None) -> list[str]:
    target = root.parent / "target"
    target.mkdir()
    copy_source(uri, [root.parent / "other_root", root], target, limits or Limits())
    return sorted(path.name for path in target.iterdir())


FILES = ["adapter_config.json", "adapter_model.safetensors"]


def test_copies_the_two_files(root: Path) -> None:
    (root / "team" / "adapter" / "README.md").write_text("more")
    assert copy(f"file://{root}/team/adapter", root) == FILES
    for name in FILES:
        assert (root.parent / "target" / name).read_bytes() == (root / "team" / "adapter" / name).read_bytes()


def test_uri_forms(root: Path) -> None:
    (root / "team" / "adapter").rename(root / "team" / "an adapter")
    assert copy(f"file://localhost{root}/team/./an%20adapter/", root) == FILES


def test_links_within_the_roots_are_followed(root: Path) -> None:
    (root / "blobs").mkdir()
    for name in FILES:
        (root / "team" / "adapter" / name).rename(root / "blobs" / name)
        (root / "team" / "adapter" / name).symlink_to(root / "blobs" / name)
    (root / "link").symlink_to("team/adapter")
    assert copy(f"file://{root}/link", root) == FILES


@pytest.mark.parametrize(
    "path",
    ["/outside/adapter", "/rootless", "/root/../outside/adapter", "/root/%2e%2e/outside/adapter", "/nowhere", ""],
)
def test_outside_is_refused_whether_it_is_there_or_not(path: str, root: Path) -> None:
    with pytest.raises(SourceNotAllowed):
        copy(f"file://{root.parent}{path}", root)


def test_folder_that_leads_out_is_refused(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "outside" / "adapter")
    with pytest.raises(SourceNotAllowed):
        copy(f"file://{root}/link", root)


@pytest.mark.parametrize("name", FILES)
def test_file_that_leads_out_is_refused(name: str, root: Path) -> None:
    path = root / "team" / "adapter" / name
    path.unlink()
    path.symlink_to(root.parent / "outside" / "adapter" / name)
    with pytest.raises(SourceNotAllowed):
        copy(f"file://{root}/team/adapter", root)


def test_link_swapped_in_after_the_check_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = Path.resolve
    team = root / "team"

    def resolve_then_swap(self: Path, strict: bool = False) -> Path:
        resolved = resolve(self, strict)
        if resolved.name == FILES[0]:
            team.rename(root / "moved")
            team.symlink_to(root.parent / "outside")
        return resolved

    monkeypatch.setattr(Path, "resolve", resolve_then_swap)
    with pytest.raises(SourceNotAllowed, match="changed"):
        copy(f"file://{team}/adapter", root)


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "",
            "adapter",
            "/root/team/adapter",
            "http://host/adapter",
            "file://host/adapter",
            "file:adapter",
            "file://[",
        ),
        *("file:///a%00b", "file:///a?b", "file:///a#b", "file:///%ff", "s3://bucket/adapter"),
    ],
)
def test_other_uris_are_refused(uri: str, root: Path) -> None:
    with pytest.raises(RequestInvalid) as caught:
        copy(uri, root)
    assert caught.value.metadata["field"] == "source_uri"


def make_loop(folder: Path) -> None:
    (folder / FILES[1]).unlink()
    (folder / FILES[1]).symlink_to(FILES[1])


def make_fifo(folder: Path) -> None:
    (folder / FILES[1]).unlink()
    os.mkfifo(folder / FILES[1])


def make_folder(folder: Path) -> None:
    (folder / FILES[1]).unlink()
    (folder / FILES[1]).mkdir()


def make_pickle(folder: Path) -> None:
    (folder / FILES[1]).rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda folder: (folder / FILES[0]).unlink(), SourceNotFound),
        (lambda folder: (folder / FILES[1]).unlink(), SourceNotFound),
        (make_loop, SourceNotFound),
        (make_fifo, SourceNotFound),
        (make_folder, SourceNotFound),
        (make_pickle, AdapterNotSafetensors),
        (lambda folder: folder.rename(folder.parent / "elsewhere"), SourceNotFound),
    ],
)
def test_folder_without_sound_files_is_refused(spoil: object, error: type[StoreError], root: Path) -> None:
    assert callable(spoil)
    spoil(root / "team" / "adapter")
    with pytest.raises(error):
        copy(f"file://{root}/team/adapter", root)


@pytest.mark.parametrize("limits", [Limits(max_adapter_bytes=500), Limits(max_config_bytes=20)])
def test_long_files_are_refused(limits: Limits, root: Path) -> None:
    with pytest.raises(AdapterTooLarge):
        copy(f"file://{root}/team/adapter", root, limits)


def test_without_roots_nothing_is_allowed(root: Path) -> None:
    with pytest.raises(SourceNotAllowed):
        copy_source(f"file://{root}/team/adapter", [], root, Limits())
