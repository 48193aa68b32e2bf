"""A model that can be computed by hand: its KV is the token ids, its adapters are markers in pages.

The next token depends on every token of the context, as read back from the sequence's pages, and on the adapter's
marker, as read back from the adapter's pages. So a page that was handed on too early, a stale block table or two
adapters' rows swapped all give other tokens than `expected_tokens`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from worker.adapters.residency import Load, Residency
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.memory.layout import AdapterLayout, ModelShape, PageGeometry
from worker.memory.pool import PagePool
from worker.memory.storage import PageStorage
from worker.model.batch import ForwardBatch
from worker.types import EngineRequest, FinishReason, HostedAdapter, PoolResidency, StepResult

BLOCK_SIZE = 4
VOCAB = 24
SHAPE = ModelShape(num_layers=1, hidden_size=4, num_heads=1, num_kv_heads=1, head_dim=4, intermediate_size=4)
GEOMETRY = PageGeometry(SHAPE, BLOCK_SIZE)  # 32 elements: an adapter of q takes a page for each 4 ranks
BROKEN = 999  # marker of an adapter whose logits are NaN
_MODULUS = 1_000_003


def adapter(marker: int, num_pages: int = 1) -> HostedAdapter:
    """An adapter of `num_pages` pages that the fake model knows by its marker, at least 1."""
    layout = AdapterLayout(SHAPE, ((4 * num_pages, 0, 0, 0, 0, 0, 0),), ((1.0,) * 7,))
    assert layout.num_pages(GEOMETRY) == num_pages
    return HostedAdapter(f"sha256:{marker:04d}", layout, tuple(marker * 1000 + i for i in range(num_pages)))


def next_logits(context: Sequence[int], marker: int) -> list[float]:
    """The fake model's logits after a context."""
    if marker == BROKEN:
        return [float("nan")] * VOCAB
    state = marker + 1
    for token in context:
        state = (state * 31 + token + 7) % _MODULUS
    return [((state + 1) * (token + 3) * 7919 % 997) / 100 for token in range(VOCAB)]


def expected_tokens(request: EngineRequest, context_length: int) -> tuple[list[int], FinishReason]:
    """What greedy decoding of a request gives, resumed tokens left out."""
    context = [*request.prompt_token_ids, *request.resumed_token_ids]
    limit = min(len(request.prompt_token_ids) + request.max_tokens, context_length)
    marker = request.adapter.host_pages[0] // 1000 if request.adapter else 0
    tokens: list[int] = []
    while len(context) < limit:
        logits = next_logits(context, marker)
        token = logits.index(max(logits))
        if token in request.stop_token_ids:
            return tokens, FinishReason.STOP
        tokens.append(token)
        context.append(token)
    return tokens, FinishReason.LENGTH


class FakeModel:
    """Computes `next_logits` from pages. Page `p` holds token `o` of a block, plus 1, in element `o`."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.rows_per_step: list[int] = []

    def forward(self, batch: ForwardBatch, pages: Tensor) -> Tensor:
        held = pages[0]
        attention = batch.attention
        slots = attention.kv_slots
        held[slots // BLOCK_SIZE, slots % BLOCK_SIZE] = (batch.token_ids + 1).float()
        starts = attention.query_start.tolist()
        assert starts[-1] == len(batch.token_ids) <= self._config.max_step_tokens
        assert len(starts) - 1 <= self._config.max_running
        self.rows_per_step.append(starts[-1])
        logits = {}
        for index, (start, stop) in enumerate(pairwise(starts)):
            length = int(attention.context_lens[index])
            blocks = attention.block_table[index][: -(-length // BLOCK_SIZE)].long()
            context = (held[blocks, :BLOCK_SIZE].flatten()[:length] - 1).int().tolist()
            assert min(context) >= 0, "a token of the context was never written"
            assert batch.positions[start:stop].tolist() == list(range(length - (stop - start), length))
            logits[stop - 1] = next_logits(context, self._marker(batch, held, start, stop))
        if batch.is_narrow and batch.lora is not None:
            assert batch.logit_lora is not None
            places = torch.arange(len(batch.logit_rows))
            owners = torch.bucketize(batch.logit_rows, batch.lora.row_start.long(), right=True)
            assert torch.equal(torch.bucketize(places, batch.logit_lora.row_start.long(), right=True), owners)
        return torch.tensor([logits[row] for row in batch.logit_rows.tolist()]).view(-1, VOCAB)

    def _marker(self, batch: ForwardBatch, held: Tensor, start: int, stop: int) -> int:
        if batch.lora is None or stop <= int(batch.lora.row_start[0]):
            return 0
        row_start = batch.lora.row_start.tolist()
        live = next(i for i in range(len(row_start) - 1) if row_start[i] <= start < row_start[i + 1])
        assert stop <= row_start[live + 1]
        slot, directory = int(batch.lora.slots[live]), batch.lora.directory
        table = directory.page_table[slot]
        markers = held[table[table >= 0].long(), 0].int().tolist()
        assert markers == list(range(markers[0], markers[0] + len(markers))), "the adapter's pages are out of order"
        assert int(directory.places[slot, 0, 0, 0]) == 4 * len(markers)
        return -markers[0] // 1000


class FakeLoader:
    """Writes an adapter's host page ids, negated so that they are no tokens, to its pool pages."""

    def __init__(self, storage: PageStorage) -> None:
        self._storage = storage
        self._arrived: list[str] = []

    def perform(self, loads: Iterable[Load]) -> None:
        for load in loads:
            self._arrived.append(load.digest)
            for host_page, pool_page in zip(load.host_pages, load.pool_pages, strict=True):
                self._storage.pages[0, pool_page] = float("nan")
                self._storage.pages[0, pool_page, 0] = -1000 * (host_page // 1000) + host_page % 1000

    def take_arrived(self) -> list[str]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def hold_step(self, needed: Callable[[], Collection[str]]) -> None:
        pass

    def finish(self, digest: str) -> None:
        pass


class Harness:
    """An engine around the fake model, and everything that its steps told."""

    def __init__(
        self,
        config: EngineConfig,
        num_pages: int,
        max_queued_pages: int | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.config = config
        self.pool = PagePool(num_pages)
        self.residency = Residency(self.pool, GEOMETRY, max_queued_pages)
        self.storage = PageStorage(GEOMETRY, num_pages, torch.float32, "cpu")
        self.model = FakeModel(config)
        self.engine = Engine(
            self.model, self.storage, self.pool, self.residency, FakeLoader(self.storage), config, clock=clock
        )
        self.tokens: dict[str, list[int]] = {}
        self.endings: dict[str, list[FinishReason | str]] = {}
        self.residency_changes: list[PoolResidency] = []

    def step(self) -> StepResult:
        result = self.engine.step()
        self.pool.check_integrity()
        self.residency.check_integrity()
        for output in result.outputs:
            assert output.request_id not in self.endings, "an output after the end"
            self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason:
                self.endings.setdefault(output.request_id, []).append(output.finish_reason)
        for failure in result.failures:
            self.endings.setdefault(failure.request_id, []).append(failure.reason)
        self.residency_changes += result.residency
        return result

    def run(self, requests: Iterable[EngineRequest] = (), max_steps: int = 10_000) -> None:
        for request in requests:
            self.engine.add(request)
        for _ in range(max_steps):
            if not self.engine.has_work:
                return
            self.step()
        raise AssertionError(f"the engine still has work after {max_steps} steps")
