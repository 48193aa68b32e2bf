"""Attention over the page pool: its points, each checked and timed beside torch's on keys and values in one piece."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, cycle, islice

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.correctness import Refused, check_result
from benchmarks.kernels.floors import Work, attention_work
from benchmarks.kernels.lora_case import DTYPE, ROTATION_BYTES
from benchmarks.kernels.lora_grid import CALLS
from benchmarks.kernels.shapes import BLOCK_SIZE, MODELS
from benchmarks.kernels.timing import Timing, on_capture_stream, time_calls
from kernels.attention import AttentionBatch, paged_attention

MAX_LAYERS = 64


@dataclass(frozen=True)
class AttentionPoint:
    """Sequences of `(context, rows)`, their last rows being queries."""

    model: str
    sequences: tuple[tuple[int, int], ...]
    window: int | None = None

    @property
    def work(self) -> Work:
        """One layer's."""
        return attention_work(MODELS[self.model], self.sequences, self.window)

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one row."""
        return all(rows == 1 for _, rows in self.sequences)

    @property
    def name(self) -> str:
        """For people."""
        contexts = sorted({context for context, _ in self.sequences})
        span = f"{contexts[0]:,}" if len(contexts) == 1 else f"{contexts[0]:,} to {contexts[-1]:,}"
        context, chunk = self.sequences[0]
        rows = "" if chunk in (1, context) else f", the last {chunk:,} as a chunk"
        window = "" if self.window is None else f", window {self.window:,}"
        kind = "decode" if self.is_decode else "prefill"
        return f"{self.model} {kind}, {len(self.sequences)} x {span} tokens{rows}{window}"


def quick_points() -> list[AttentionPoint]:
    """Those that goals speak of."""
    return [
        AttentionPoint(model, sequences)
        for model in ("llama-7b", "llama-3-8b")
        for sequences in (((1024, 1),) * 64, ((8192, 8192),))
    ]


def all_points() -> list[AttentionPoint]:
    """Short and long contexts, small and large batches, chunks, windows, shards."""
    uneven = tuple((16 + 97 * place % 2048, 1) for place in range(256))
    return [
        *quick_points(),
        *(AttentionPoint("llama-3-8b", ((context, 1),) * n) for n, context in ((1, 1024), (8, 8192), (1, 65536))),
        AttentionPoint("llama-3-8b", uneven),
        AttentionPoint("llama-7b", uneven),
        AttentionPoint("llama-3-8b", ((8192, 1),) * 32, window=1024),
        AttentionPoint("llama-70b/tp8", ((1024, 1),) * 64),
        AttentionPoint("llama-70b/tp4", ((4096, 1),) * 64),
        AttentionPoint("llama-3-8b", ((2048, 2048),) * 4),
        AttentionPoint("llama-3-8b", ((8192, 2048),)),
        AttentionPoint("llama-3-8b", ((8192, 8192),), window=1024),
        AttentionPoint("llama-70b/tp8", ((8192, 8192),)),
    ]


class AttentionCase:
    """A point's data: keys and values in shuffled pages, some layers of them."""

    def __init__(
        self, point: AttentionPoint, device: torch.device | str = "cuda", max_layers: int = MAX_LAYERS
    ) -> None:
        self.point, self.shape = point, MODELS[point.model].shape
        self.scale = self.shape.head_dim**-0.5
        self.num_layers = min(max_layers, max(2, -(-ROTATION_BYTES // point.work.num_bytes)))
        torch.manual_seed(0)
        sizes = [-(-context // BLOCK_SIZE) for context, _ in point.sequences]
        elements = MODELS[point.model].geometry.page_elements
        self.pages = torch.randn(self.num_layers, sum(sizes), elements, dtype=DTYPE, device=device)
        counts = [rows for _, rows in point.sequences]
        heads = (self.shape.num_heads, self.shape.head_dim)
        # Large, so that each row looks at few positions and one missed is seen.
        self.queries = 4 * torch.randn(self.num_layers, sum(counts), *heads, dtype=DTYPE, device=device)
        self.held = torch.randperm(sum(sizes)).split(sizes)
        table = torch.full((len(sizes), max(sizes)), -1, dtype=torch.int32)
        slots = []
        for row, ids, (context, rows) in zip(table, self.held, point.sequences, strict=True):
            row[: len(ids)] = ids
            places = torch.arange(context - rows, context)
            slots.append(ids[places // BLOCK_SIZE] * BLOCK_SIZE + places % BLOCK_SIZE)
        self.starts = [0, *accumulate(counts)]
        self.batch = AttentionBatch(
            query_start=torch.tensor(self.starts, dtype=torch.int32, device=device),
            context_lens=torch.tensor([context for context, _ in point.sequences], dtype=torch.int32, device=device),
            block_table=table.to(device),
            kv_slots=torch.cat(slots).to(device),
            max_query_len=max(counts),
        )

    def ours(self, layer: int) -> Tensor:
        """The kernel."""
        return paged_attention(
            self.queries[layer],
            self.pages[layer],
            self.batch,
            num_kv_heads=self.shape.num_kv_heads,
            block_size=BLOCK_SIZE,
            scale=self.scale,
            window=self.point.window,
        )

    def keys_and_values(self, layer: int, seq: int) -> Tensor:
        """`[2, context, num_kv_heads, head_dim]`, in one piece."""
        context, _ = self.point.sequences[seq]
        held = self.pages[layer, self.held[seq].to(self.pages.device)]
        kv = held.view(len(held), 2, BLOCK_SIZE, self.shape.num_kv_heads, self.shape.head_dim)
        return kv.transpose(0, 1).flatten(1, 2)[:, :context]

    def expected(self, layer: int) -> Tensor:
        """The result in float64, a sequence and head at a time."""
        query = self.queries[layer].double()
        result = torch.empty_like(query)
        for seq, (context, rows) in enumerate(self.point.sequences):
            own = slice(self.starts[seq], self.starts[seq + 1])
            keys, values = self.keys_and_values(layer, seq).double()
            position = torch.arange(context - rows, context, device=query.device)[:, None]
            key = torch.arange(context, device=query.device)
            hidden = key > position
            if self.point.window is not None:
                hidden |= key <= position - self.point.window
            for head in range(self.shape.num_heads):
                kv_head = head * self.shape.num_kv_heads // self.shape.num_heads
                scores = (query[own, head] @ keys[:, kv_head].T * self.scale).masked_fill_(hidden, -torch.inf)
                result[own, head] = scores.softmax(1) @ values[:, kv_head]
        return result

    def torch_sdpa(self) -> Callable[[int], Tensor] | None:
        """Torch's fused attention on a contiguous copy; None where that needs a mask in memory."""
        sequences, window = self.point.sequences, self.point.window
        context, rows = sequences[0]
        if window is not None or len(set(sequences)) > 1 or rows not in (1, context):
            return None
        copies = []
        for layer in range(self.num_layers):
            kv = torch.stack([self.keys_and_values(layer, seq) for seq in range(len(sequences))], 1)
            copies.append(kv.transpose(2, 3).contiguous())  # [2, num_seqs, num_kv_heads, context, head_dim]

        def attend(layer: int) -> Tensor:
            query = self.queries[layer].unflatten(0, (len(sequences), rows)).transpose(1, 2)
            keys, values = copies[layer]
            attended = scaled_dot_product_attention(
                query, keys, values, is_causal=rows > 1, scale=self.scale, enable_gqa=True
            )
            return attended.transpose(1, 2).flatten(0, 1)

        return attend


def measure_attention(point: AttentionPoint, refused: Refused) -> dict[str, Timing]:
    """Checks the kernel and torch's attention against float64, then times each that is right."""
    case = AttentionCase(point)
    timings = {}
    right = case.expected(0)
    for name, attend in (("ours", case.ours), ("torch_sdpa", case.torch_sdpa())):
        if attend is None:
            continue
        with refused.unless_right(f"{name} on {point.name}"):
            with on_capture_stream():
                output = attend(0)
            check_result(output, right)
            calls = [_call(attend, layer) for layer in range(case.num_layers)]
            num_calls = max(case.num_layers, CALLS if point.is_decode else 2)
            timings[name] = time_calls(list(islice(cycle(calls), num_calls)))
    return timings


def _call(attend: Callable[[int], Tensor], layer: int) -> Callable[[], Tensor]:
    return lambda: attend(layer)
