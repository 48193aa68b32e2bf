import errno
import os
from types import SimpleNamespace

import pytest
import torch

from worker.memory.arena_file import ArenaFile
from worker.memory.errors import HostArenaUnusable, HostMemoryFull
from worker.memory.host_arena import HostArena
from worker.memory.layout import ModelShape, PageGeometry
from worker.memory.storage import PageStorage, page_size_bytes

SHAPE = ModelShape(num_layers=3, hidden_size=8, num_heads=2, num_kv_heads=1, head_dim=4, intermediate_size=16)
GEOMETRY = PageGeometry(SHAPE, block_size=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_users_of_one_file_see_the_same_pages(tmp_path, dtype) -> None:
    file = ArenaFile.create(tmp_path)
    writer = HostArena.create(file, 5, GEOMETRY, dtype)
    heir = ArenaFile.inherited(os.dup(file.descriptor))
    reader = HostArena.open(heir, 5, GEOMETRY, dtype)
    file.close()
    heir.close()
    writer.page(4)[:] = 7
    assert reader.page(4).tolist() == [[7.0] * 32] * 3
    assert reader.page(3).abs().sum() == 0


def test_the_file_never_has_a_name_that_could_stay_behind(tmp_path) -> None:
    file = ArenaFile.create(tmp_path)
    assert list(tmp_path.iterdir()) == []
    HostArena.create(file, 5, GEOMETRY, torch.float32).reserve((0,))
    assert list(tmp_path.iterdir()) == []


def test_the_file_takes_memory_as_pages_are_reserved(tmp_path) -> None:
    geometry = PageGeometry(SHAPE, block_size=4096)
    file = ArenaFile.create(tmp_path)
    arena = HostArena.create(file, 100, geometry, torch.float32)
    page_bytes = page_size_bytes(geometry, torch.float32)
    assert file.num_bytes == 100 * page_bytes
    assert os.fstat(file.descriptor).st_blocks * 512 < page_bytes
    arena.reserve((7, 8))
    assert 2 * page_bytes <= os.fstat(file.descriptor).st_blocks * 512 < 3 * page_bytes


def test_a_file_system_too_small_is_named_before_anything_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(HostArenaUnusable, match="has 4096 bytes free: set a smaller host_cache_bytes"):
        HostArena.create(ArenaFile.create(tmp_path), 100, GEOMETRY, torch.float32)


def test_a_folder_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(HostArenaUnusable, match="missing: No such file or directory: point host_cache_dir"):
        ArenaFile.create(tmp_path / "missing")


def test_an_arena_without_a_page_is_refused(tmp_path) -> None:
    with pytest.raises(HostArenaUnusable, match="set its size to 384 bytes or more"):
        HostArena.create(ArenaFile.create(tmp_path), 0, GEOMETRY, torch.float32)


def test_a_file_system_that_fills_up_later_is_a_typed_error(tmp_path, monkeypatch) -> None:
    arena = HostArena.create(ArenaFile.create(tmp_path), 4, GEOMETRY, torch.float32)
    arena.reserve((0,))

    def no_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    arena.reserve((0,))
    with pytest.raises(HostMemoryFull, match="the file system that holds the host cache is full"):
        arena.reserve((0, 1))


def test_copies_pages_to_the_pool(tmp_path) -> None:
    arena = HostArena.create(ArenaFile.create(tmp_path), 4, GEOMETRY, torch.float32)
    storage = PageStorage(GEOMETRY, 6, torch.float32, "cpu")
    arena.page(1)[:] = torch.arange(96.0).view(3, 32)
    arena.page(3)[:] = -1
    arena.copy_to_pool(storage, (3, 1), (0, 5))
    assert torch.equal(storage.pages[:, 5], torch.arange(96.0).view(3, 32))
    assert (storage.pages[:, 0] == -1).all()
    assert storage.pages[:, 1:5].abs().sum() == 0
