import asyncio

import pytest

from control_plane.catalog import Catalog, CatalogEntry, CatalogPage
from control_plane.core.errors import RequestError
from control_plane.core.types import AdapterRef
from control_plane.errors import StoreUnavailable


def version(adapter_id: str, number: int) -> AdapterRef:
    return AdapterRef(adapter_id, f"sha256:{number:064x}", rank=8, size_bytes=100)


class FakeSource:
    """Counts its questions; answers wait for `gate`."""

    def __init__(self) -> None:
        self.entries: dict[str, CatalogEntry] = {}
        self.num_questions = 0
        self.is_away = False
        self.was_asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    def publish(self, adapter_id: str, *numbers: int, base_model: str = "tiny") -> None:
        versions = tuple(version(adapter_id, number) for number in numbers)
        self.entries[adapter_id] = CatalogEntry(adapter_id, base_model, versions)

    async def get(self, adapter_id: str) -> CatalogEntry | None:
        self.num_questions += 1
        self.was_asked.set()
        await self.gate.wait()
        if self.is_away:
            raise StoreUnavailable("away")
        return self.entries.get(adapter_id)

    async def list_page(self, page_size: int, page_token: str) -> CatalogPage:
        raise NotImplementedError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalog(source: FakeSource, clock: Clock) -> Catalog:
    return Catalog(source, "tiny", ttl_s=2.0, max_entries=3, clock=clock)


async def refused(catalog: Catalog, name: str) -> str:
    with pytest.raises(RequestError) as caught:
        await catalog.resolve(name)
    assert caught.value.metadata.get("field", "adapter") == "adapter"
    return caught.value.reason


async def test_the_base_model_is_no_adapter(catalog: Catalog, source: FakeSource) -> None:
    assert await catalog.resolve("") is None
    assert await catalog.resolve("tiny") is None
    assert source.num_questions == 0


async def test_a_name_is_its_newest_version_until_the_answer_is_old(
    catalog: Catalog, source: FakeSource, clock: Clock
) -> None:
    source.publish("t/a", 1)
    assert await catalog.resolve("t/a") == version("t/a", 1)
    source.publish("t/a", 2, 1)
    clock.now = 1.9
    assert await catalog.resolve("t/a") == version("t/a", 1)
    assert source.num_questions == 1
    clock.now = 2.0
    assert await catalog.resolve("t/a") == version("t/a", 2)


async def test_a_version_is_named_by_its_digest(catalog: Catalog, source: FakeSource, clock: Clock) -> None:
    source.publish("t/a", 2, 1)
    assert await catalog.resolve(f"t/a@{version('t/a', 1).digest}") == version("t/a", 1)
    clock.now = 100.0
    assert await catalog.resolve(f"t/a@{version('t/a', 1).digest}") == version("t/a", 1)
    assert source.num_questions == 1, "a version is immutable"
    source.publish("t/a", 3, 2, 1)
    assert await catalog.resolve(f"t/a@{version('t/a', 3).digest}") == version("t/a", 3)


async def test_an_adapter_can_be_used_as_soon_as_it_is_published(catalog: Catalog, source: FakeSource) -> None:
    assert await refused(catalog, "t/a") == "ADAPTER_NOT_FOUND"
    source.publish("t/a", 1)
    assert await catalog.resolve("t/a") == version("t/a", 1)
    assert await refused(catalog, f"t/a@sha256:{9:064x}") == "ADAPTER_NOT_FOUND"


@pytest.mark.parametrize(
    "name", ["a b", "a//b", "/a", "a/b/c/d/e", "x" * 201, "t/a@latest", "t/a@sha256:12", "@", "\u00e9"]
)
async def test_what_can_be_no_name_is_not_asked_for(catalog: Catalog, source: FakeSource, name: str) -> None:
    assert await refused(catalog, name) == "ADAPTER_NAME_INVALID"
    assert source.num_questions == 0


async def test_an_adapter_of_another_base_model_is_refused(catalog: Catalog, source: FakeSource) -> None:
    source.publish("t/a", 1, base_model="other")
    assert await refused(catalog, "t/a") == "BASE_MODEL_MISMATCH"


async def test_many_callers_ask_once(catalog: Catalog, source: FakeSource) -> None:
    source.publish("t/a", 1)
    source.gate.clear()
    callers = [asyncio.create_task(catalog.resolve("t/a")) for _ in range(20)]
    await source.was_asked.wait()
    callers[0].cancel()
    source.gate.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError), "a caller that goes away"
    assert set(answers[1:]) == {version("t/a", 1)}, "takes nothing from the others"
    assert source.num_questions == 1


async def test_a_store_that_is_away_is_made_up_for(catalog: Catalog, source: FakeSource, clock: Clock) -> None:
    source.publish("t/a", 1)
    await catalog.resolve("t/a")
    source.is_away, clock.now = True, 1000.0
    assert await catalog.resolve("t/a") == version("t/a", 1)
    assert await refused(catalog, "t/b") == "STORE_UNAVAILABLE"
    source.is_away = False
    source.publish("t/a", 2, 1)
    assert await catalog.resolve("t/a") == version("t/a", 2)


async def test_a_deleted_adapter_is_forgotten(catalog: Catalog, source: FakeSource, clock: Clock) -> None:
    source.publish("t/a", 1)
    await catalog.resolve("t/a")
    del source.entries["t/a"]
    clock.now = 3.0
    assert await refused(catalog, "t/a") == "ADAPTER_NOT_FOUND"
    source.is_away = True
    assert await refused(catalog, "t/a") == "STORE_UNAVAILABLE"


async def test_the_cache_keeps_the_latest_used(catalog: Catalog, source: FakeSource) -> None:
    for name in ("t/a", "t/b", "t/c"):
        source.publish(name, 1)
        await catalog.resolve(name)
    await catalog.resolve("t/a")
    source.publish("t/d", 1)
    await catalog.resolve("t/d")
    assert source.num_questions == 4
    await catalog.resolve("t/a")
    assert source.num_questions == 4
    await catalog.resolve("t/b")
    assert source.num_questions == 5


async def test_without_a_store_there_is_the_base_model_only(clock: Clock) -> None:
    catalog = Catalog(None, "tiny", ttl_s=1.0, max_entries=1, clock=clock)
    assert await catalog.resolve("tiny") is None
    assert await refused(catalog, "t/a") == "ADAPTER_NOT_FOUND"
    assert (await catalog.list_page(10, "")).entries == ()
