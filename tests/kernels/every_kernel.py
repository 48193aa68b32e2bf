"""Launches every kernel of `kernels/` on small cases and judges nothing: for tools that watch what kernels touch.

    python -m tests.kernels.every_kernel

Fails if there is a kernel that no case comes to. Without a GPU, and with TRITON_INTERPRET=1, all but Hopper's run in
Triton's interpreter. With `--astray` a norm gathers a row that is not there, which a tool that watches has to see.
"""

import inspect
import pkgutil
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import kernels
from kernels.activation.kernel import silu_mul
from kernels.activation.kernel.hopper import linear_silu_mul as multiply_in_tiles
from kernels.attention.kernel import paged_attention
from kernels.device import is_hopper
from kernels.launch import compiling
from kernels.linear.kernel import linear
from kernels.lora import LoraDelta
from kernels.lora.kernel import linear_and_shrink, mbgmm, shrink
from kernels.norm.kernel import add_rms_norm, gather_rms_norm, rms_norm
from kernels.paging.kernel import copy_pages, write_kv
from kernels.sampling import Penalties
from kernels.sampling.kernel import sample
from tests.kernels import attention_cases, lora_cases
from tests.kernels.attention_cases import Heads
from tests.kernels.buffers import DEVICE
from tests.kernels.launches import launched_in
from tests.kernels.rotation_cases import rotate
from tests.kernels.sampling_cases import ROWS, Row, choices_of, draw_logits
from worker.memory.layout import GROUPS, ModelShape, PageGeometry

ON_GPU = DEVICE == "cuda"
HAS_HOPPER = ON_GPU and is_hopper(torch.device(DEVICE))
HALF = torch.bfloat16 if ON_GPU else torch.float16  # the interpreter takes bfloat16 for integers in products
QKV, OUTPUT, GATE_UP, DOWN = GROUPS
EVEN = (PageGeometry(ModelShape(1, 192, 4, 2, 64, 448), 16), HALF)  # page borders cut no run of 64 elements,
ODD = (PageGeometry(ModelShape(1, 36, 3, 1, 12, 27), 3), torch.float32)  # or any
WIDE = (PageGeometry(ModelShape(1, 512, 4, 2, 128, 2304), 16), HALF)  # or of 256
ADAPTED = [  # pages; rows of the base model and of each adapter; ranks; whether all are decodes
    (EVEN, [5], (), True),
    (ODD, [2, 1, 3], (8, 16), True),
    (ODD, [2, 20, 1], (3, 32), False),
    (ODD, [5, 2060, 9], (8,), False),  # more rows than are split
    (EVEN, [2, 1, 3], (8, 16), True),
    (EVEN, [2, 20, 1], (3, 32), False),
    (EVEN, [2, 20, 1], (3, 64), False),
    (EVEN, [1, 5, 1], (100,), True),
    (EVEN, [1, 70, 1], (100,), True),
    (EVEN, [0, *[1] * 16], (100,), True),  # more tiles of a shrink than programs
    (WIDE, [1, 3, 1, 2], (3, 40), True),
    (EVEN, [3, 90, 9], (100,), False),  # more ranks than are added by row
    (EVEN, [5, 2060, 9], (8,), False),
    (EVEN, [5, 2060, 9], (100,), False),
]
QUICK = 4  # of these, which is what Triton's interpreter has the time for
EPSILON = 1e-5


def attend() -> None:
    """Decodes of one split and of several, and a chunk, twice with the same tables."""
    kinds = [(Heads(4, 2, 16), torch.float32)]
    if HAS_HOPPER:
        kinds += [(Heads(8, 2, 128), torch.bfloat16), (Heads(6, 6, 64), torch.float16)]
    for heads, dtype in kinds:
        seqs = [(1100, 1), (17, 1), (40, 33), (0, 0)]
        case = attention_cases.draw_case(seqs, heads, 16, 1, dtype, DEVICE, max_blocks=70, unused_rows=3)
        for window in (None, 20):
            paged_attention(
                case.query,
                case.pages,
                case.batch,
                num_kv_heads=heads.num_kv_heads,
                block_size=16,
                scale=heads.head_dim**-0.5,
                window=window,
            )


def adapt(pages: tuple[PageGeometry, torch.dtype], counts: list[int], ranks: tuple[int, ...], is_decode: bool) -> None:
    """The ops of a layer that add adapters' shares, and `mbgmm`."""
    geometry, dtype = pages
    case = lora_cases.draw_case(random.Random(1), counts, ranks, dtype, DEVICE, geometry)
    batch, shape = replace(case.batch, is_decode=is_decode), geometry.shape

    def begin(modules: tuple[int, ...]) -> tuple[Tensor, LoraDelta | None]:
        x, _, outputs = case.inputs(modules)
        mbgmm(outputs, x, case.pages[0], batch, layer=0, modules=modules)
        widths = [output.shape[1] for output in outputs]
        whole = torch.cat(outputs, 1)
        return whole, shrink(whole.split(widths, 1), x, case.pages[0], batch, layer=0, modules=modules)

    num_pages = case.num_rows // geometry.block_size + 1
    slots = torch.randperm(num_pages * geometry.block_size)[: case.num_rows]
    slots[::3] = -1
    heads = (shape.num_heads + shape.num_kv_heads, shape.head_dim)
    qkv, delta = begin(QKV)
    kv_pages = torch.empty(num_pages, geometry.page_elements, dtype=dtype, device=DEVICE)
    norm = torch.ones(heads, dtype=dtype, device=DEVICE) if is_decode else None
    rotate(qkv, slots.to(DEVICE), kv_pages, geometry, norm, delta)
    update, delta = begin(OUTPUT)
    hidden, weight = torch.randn_like(update), torch.ones_like(update[0])
    add_rms_norm(hidden, update, weight, EPSILON, delta=delta)
    gate_up, delta = begin(GATE_UP)
    silu_mul(gate_up, delta=delta)
    update, delta = begin(DOWN)
    rows = torch.tensor([case.num_rows - 1, 0], device=DEVICE)
    gather_rms_norm(hidden, update, rows, weight, EPSILON, delta)
    rms_norm(hidden, weight, EPSILON)


def adapt_all() -> None:
    for adapted in ADAPTED if ON_GPU else ADAPTED[:QUICK]:
        adapt(*adapted)


def multiply() -> None:
    """Tiles of every height, and matrices that end within one."""
    for num_rows, out_features in ((1, 1100), (12, 2100), (20, 2100), (33, 4100)):
        x = torch.randn(num_rows, 288, device=DEVICE).bfloat16()
        weight = torch.randn(out_features, 288, device=DEVICE).bfloat16()
        for bias in (None, weight[:, 0].contiguous()):
            linear(x, weight, x.new_empty(num_rows, out_features), bias, chained=bias is None)


def multiply_adapted() -> None:
    """A linear layer with the shrink of its rows beside it: of an adapter one, some, and more than a tile has.

    And of some hundred rows with the shrink on processors apart, and on the others what is too much for these; of more
    with the expand of adapters that have many.
    """
    if not HAS_HOPPER:
        return
    decodes = [0, 700, 300]
    for counts in ([0, 1], [1, 3, 1, 20], [2, 17, 40, 5], [2, 17, 140, 5], decodes, [2, 70, 1980, 5]):
        case = lora_cases.draw_case(random.Random(1), counts, (3, 40), WIDE[1], DEVICE, WIDE[0])
        batch = replace(case.batch, is_decode=counts is decodes)
        for modules in (QKV, GATE_UP):
            x, _, outputs = case.inputs(modules)
            out = torch.cat(outputs, 1)
            parts = out.split([output.shape[1] for output in outputs], 1)
            weight = torch.randn(out.shape[1], x.shape[1], device=DEVICE).to(x)
            linear_and_shrink(x, weight, out, None, parts, case.pages[0], batch, layer=0, modules=modules)


def multiply_gated() -> None:
    """Gate and up of many rows, with SwiGLU's product: in fewer tiles than programs, and in more."""
    if not HAS_HOPPER:
        return
    for num_rows, width in ((600, 192), (1000, 4096)):
        x = torch.randn(num_rows, 1032, device=DEVICE).bfloat16()  # which ends within a step
        weight = torch.randn(2 * width, 1032, device=DEVICE).bfloat16()
        multiply_in_tiles(x, weight, x.new_empty(num_rows, width))


def move() -> None:
    """Rows to their slots, and pages from the device and from pinned memory; some to nowhere."""
    key, value = torch.randn(2, 7, 3, 5, device=DEVICE)
    slots = torch.tensor([0, 11, -1, 5, 40, 3, 2**40], device=DEVICE)
    write_kv(torch.empty(3, 2 * 4 * 15, device=DEVICE), key, value, slots, 4)
    pages, ids = torch.empty(2, 6, 9000, device=DEVICE), torch.tensor([5, 0, -1, 6], device=DEVICE)
    block = torch.randn(4, 2, 9000, pin_memory=ON_GPU).transpose(0, 1)
    copy_pages(pages, ids, block.to(DEVICE))
    copy_pages(pages, ids, block, source_ids=ids - 2)


def choose() -> None:
    """Tokens from several splits: the likeliest, drawn ones, among few that are kept and many, with penalties."""
    vocab = 9000
    ids, values = torch.tensor([1], device=DEVICE), torch.full((1,), 1.7, device=DEVICE)
    noted = torch.arange(vocab - 1100, vocab, device=DEVICE)
    penalties = Penalties(ids, values, values, values, noted, noted[:30])
    for rows, spread, borne in (([Row(0.0)] * 2, 1.0, None), (ROWS, 1.0, penalties), ([Row(top_p=0.9)], 0.01, None)):
        choices = choices_of(rows)
        uniforms = torch.tensor([row.uniform for row in rows], dtype=torch.float64, device=DEVICE)
        sample(draw_logits(len(rows), vocab) * spread, choices, uniforms if choices.has_draws else None, borne)


def go_astray() -> None:
    rows = torch.randn(3, 1000, device=DEVICE)
    gather_rms_norm(rows, rows, torch.tensor([3], device=DEVICE), torch.ones(1000, device=DEVICE), EPSILON)


def every_kernel() -> dict[str, Any]:
    """What modules of `kernels/` give to `launch`, by its name there, as far as there is the hardware."""
    found = {}
    for module in pkgutil.walk_packages(kernels.__path__, "kernels."):
        if module.name.endswith(".hopper") and not HAS_HOPPER:
            continue
        loaded = import_module(module.name)
        for kernel in launched_in(inspect.getsource(loaded)):
            found[f"{module.name}.{kernel}"] = getattr(loaded, kernel)
    return found


def watch(kernels_by_name: dict[str, Any]) -> set[str]:
    """The names of those that are launched from now on."""
    launched: set[str] = set()

    def noted(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def run_noted(*arguments: Any, warmup: bool, **options: Any) -> Any:
            if not warmup:
                launched.add(name)
            return run(*arguments, warmup=warmup, **options)

        return run_noted

    for name, kernel in kernels_by_name.items():
        kernel.run = noted(name, kernel.run)
    return launched


def run(cases: Sequence[Callable[[], None]]) -> None:
    if ON_GPU:  # side by side, as compiling them one by one takes many times as long
        with compiling(torch.device(DEVICE, torch.cuda.current_device())):
            for case in cases:
                case()
    for case in cases:
        case()
    if ON_GPU:
        torch.cuda.synchronize()


def main() -> None:
    if sys.argv[1:] == ["--astray"]:
        run([go_astray])
        return
    wanted = every_kernel()
    launched = watch(wanted)
    run([attend, adapt_all, multiply, multiply_adapted, multiply_gated, move, choose])
    missed = sorted(wanted.keys() - launched)
    if missed:
        sys.exit(f"no case comes to {missed}")
    print("launched:", *sorted(launched), sep="\n")


if __name__ == "__main__":
    main()
