"""What a request's `adapter` means: the base model, an adapter's newest version, or the version it names."""

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from control_plane.core.errors import AdapterNotFound
from control_plane.core.types import AdapterRef
from control_plane.errors import AdapterNameInvalid, BaseModelMismatch, StoreUnavailable

logger = logging.getLogger(__name__)

ADAPTER_ID: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,3}")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
MAX_ID_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """An adapter as the store describes it: its versions, newest first."""

    adapter_id: str
    base_model: str
    versions: tuple[AdapterRef, ...]


@dataclass(frozen=True, slots=True)
class CatalogPage:
    """One page of the store's adapters, each with its newest version only."""

    entries: tuple[CatalogEntry, ...]
    next_page_token: str


class AdapterSource(Protocol):
    """Where entries come from."""

    async def get(self, adapter_id: str) -> CatalogEntry | None:
        """The adapter, or None if there is none of that id. Raises StoreUnavailable."""

    async def list_page(self, page_size: int, page_token: str) -> CatalogPage:
        """One page by id. Raises StoreUnavailable, PageInvalid."""


@dataclass(frozen=True, slots=True)
class _Answer:
    entry: CatalogEntry
    time: float


class Catalog:
    """Resolves adapter names through a cache: one question at a time for each id, each answer fresh for a while.

    When the store is away the last answer goes on being used, however old it is.
    """

    def __init__(
        self,
        source: AdapterSource | None,
        base_model: str,
        *,
        ttl_s: float,
        max_entries: int,
        clock: Callable[[], float],
    ) -> None:
        """`source` None: the base model is all there is. `clock` gives seconds, on any steady origin."""
        self._source = source
        self._base_model = base_model
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._clock = clock
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._questions: dict[str, asyncio.Task[CatalogEntry | None]] = {}
        self._is_store_away = False

    async def resolve(self, name: str) -> AdapterRef | None:
        """The version that `name` stands for, or None for the base model.

        Raises AdapterNotFound, AdapterNameInvalid, BaseModelMismatch, StoreUnavailable.
        """
        if name in ("", self._base_model):
            return None
        adapter_id, at, digest = name.partition("@")
        if len(adapter_id) > MAX_ID_CHARACTERS or not ADAPTER_ID.fullmatch(adapter_id):
            raise AdapterNameInvalid(
                "adapter", f"{name[:300]!r} is no adapter id; use parts of letters, digits and ._- joined by '/'"
            )
        if at and not DIGEST.fullmatch(digest):
            raise AdapterNameInvalid("adapter", f"{name[:300]!r}: write a version as id@sha256:<64 hex digits>")
        entry = await self._entry(adapter_id, digest)
        version = _chosen(entry, digest) if entry else None
        if entry is None or version is None:
            raise AdapterNotFound(
                f"adapter: no adapter {name!r}; ListModels names those there are",
                metadata={"field": "adapter", "adapter": name},
            )
        if entry.base_model != self._base_model:
            raise BaseModelMismatch(
                f"adapter: {adapter_id!r} was made for base model {entry.base_model!r}; this is {self._base_model!r}",
                metadata={"field": "adapter", "base_model": self._base_model},
            )
        return version

    async def list_page(self, page_size: int, page_token: str) -> CatalogPage:
        """One page of adapters, by id, straight from the store. Raises StoreUnavailable, PageInvalid."""
        if self._source is None:
            return CatalogPage(entries=(), next_page_token="")
        return await self._source.list_page(page_size, page_token)

    async def _entry(self, adapter_id: str, digest: str) -> CatalogEntry | None:
        if self._source is None:
            return None
        known = self._answers.get(adapter_id)
        if known and _chosen(known.entry, digest) and (digest or self._clock() - known.time < self._ttl_s):
            # A version is immutable, so one that is known needs no fresh answer. What is unknown is asked for every
            # time, so that an adapter can be used as soon as it is published.
            self._answers.move_to_end(adapter_id)
            return known.entry
        try:
            entry = await asyncio.shield(self._question(self._source, adapter_id))
        except StoreUnavailable:
            if known is None:
                raise
            self._note_store(is_away=True)
            return known.entry
        self._note_store(is_away=False)
        return entry

    def _note_store(self, *, is_away: bool) -> None:
        if is_away and not self._is_store_away:
            logger.warning("the adapter store does not answer; adapters known from before go on being served")
        elif self._is_store_away and not is_away:
            logger.info("the adapter store answers again")
        self._is_store_away = is_away

    def _question(self, source: AdapterSource, adapter_id: str) -> asyncio.Task[CatalogEntry | None]:
        """The question under way for this id, or a new one; its task outlives any one caller."""
        question = self._questions.get(adapter_id)
        if question is None:
            question = asyncio.create_task(self._ask(source, adapter_id))
            self._questions[adapter_id] = question
            question.add_done_callback(lambda done: self._end_question(adapter_id, done))
        return question

    def _end_question(self, adapter_id: str, question: asyncio.Task[CatalogEntry | None]) -> None:
        self._questions.pop(adapter_id, None)
        if not question.cancelled():
            question.exception()  # Seen here, in case every caller went away before the answer.

    async def _ask(self, source: AdapterSource, adapter_id: str) -> CatalogEntry | None:
        entry = await source.get(adapter_id)
        if entry is None:
            self._answers.pop(adapter_id, None)
            return None
        self._answers[adapter_id] = _Answer(entry, self._clock())
        self._answers.move_to_end(adapter_id)
        while len(self._answers) > self._max_entries:
            self._answers.popitem(last=False)
        return entry


def _chosen(entry: CatalogEntry, digest: str) -> AdapterRef | None:
    """The version of this digest, or the newest if there is no digest."""
    if not digest:
        return entry.versions[0] if entry.versions else None
    return next((version for version in entry.versions if version.digest == digest), None)
