"""Compiles the Hopper kernels for sm_90 where there is no GPU, and prints what came out as JSON.

A process of its own: Triton decides when it is imported whether it compiles or interprets.
"""

import json
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource

from kernels.activation.kernel.hopper_gated import linear_silu_mul
from kernels.attention.kernel import hopper
from kernels.attention.kernel.hopper_decode import decode
from kernels.attention.kernel.hopper_prefill import prefill
from kernels.gluon import SWIZZLED
from kernels.linear.kernel.hopper_linear import linear
from kernels.linear.kernel.hopper_product import HALF, STEP, TILE
from kernels.linear.kernel.tiles import HEIGHT, WIDTH, Tiles
from kernels.lora.kernel.hopper_apart import linear_and_shrink_apart
from kernels.lora.kernel.hopper_expand import linear_and_expand
from kernels.lora.kernel.hopper_linear import linear_and_shrink
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import Tiling
from kernels.norm.kernel.hopper_cluster import PROGRAMS, norm_rows

POINTERS = {
    **dict.fromkeys(("output", "query", "out", "bias", "x", "pages", "lora_pages"), "*bf16"),
    **dict.fromkeys(("hidden", "update", "weight"), "*bf16"),
    **dict.fromkeys(("query_start", "context_lens", "block_table", "counts"), "*i32"),
    **dict.fromkeys(("page_table", "starts", "records", "owners", "flags"), "*i32"),
    "arrivals": "*i64",
    **dict.fromkeys(("partial", "stats", "bridge", "squares", "parts"), "*fp32"),
}
STRIDES = ("output_stride", "query_stride", "query_head_stride", "out_stride", "out_features")
STRIDES += ("hidden_stride", "update_stride", "width")
PAGES = {"desc": (16, 64)}
MANY_ROWS = {"out_desc": (TILE, HALF), "weight_desc": (TILE, STEP), "x_desc": (TILE, STEP)}
PAGE_ELEMENTS = 2 * 16 * 8 * 128  # of blocks of 16 tokens


def compile_kernel(
    kernel,
    constants: dict[str, int | bool],
    options: dict[str, int],
    boxes: dict[str, tuple[int, int]] = PAGES,
) -> dict[str, int | bool]:
    """`boxes` are what TMA brings at once, by the names of descriptors."""
    descriptors = {
        name: f"tensordesc<bf16[{rows}, {width}],{SWIZZLED.value!r}>" for name, (rows, width) in boxes.items()
    }
    types = {**POINTERS, **descriptors, "scale_log2": "fp32", "epsilon": "fp32"}
    if constants.get("PIECES", 1) == 1:  # the sum of one piece is left rounded
        types["bridge"] = "*bf16"
    names = kernel.arg_names
    source = GluonASTSource(
        kernel,
        {name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in (*POINTERS, *STRIDES)},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, **options})
    ptx = compiled.asm["ptx"]
    return {
        "shared_bytes": compiled.metadata.shared,
        "has_wgmma": "wgmma.mma_async" in ptx,
        "has_tma": "cp.async.bulk.tensor" in ptx,
        "has_cluster": ".reqnctapercluster" in ptx and "barrier.cluster" in ptx,
        "wide_loads": len(re.findall(r"ld\.global[\w.:]*\.v4", ptx)),
        "narrow_loads": len(re.findall(r"ld\.global[\w.:]*\.[bu]16", ptx)),
        "narrow_copies": len(re.findall(r"cp\.async\.ca\.shared", ptx)),
        "waits": "griddepcontrol.wait" in ptx,
        "lets_next_begin": "griddepcontrol.launch_dependents" in ptx,
    }


def compile_linear(num_rows: int, out_features: int) -> dict[str, int | bool]:
    return _compile_tiles(linear, num_rows, out_features, {"HAS_BIAS": True}, 168)


def compile_with_shrink(
    num_rows: int,
    out_features: int,
    in_features: int,
    num_modules: int = 1,
    num_live: int = 64,
    page_elements: int = PAGE_ELEMENTS,
) -> dict[str, int | bool]:
    """A linear layer and its shrink."""
    constants = _shrink_constants(in_features, num_modules, num_live, page_elements)
    return _compile_tiles(linear_and_shrink, num_rows, out_features, constants, 112)


def compile_with_shrink_apart(
    in_features: int, num_modules: int, num_live: int, page_elements: int = PAGE_ELEMENTS
) -> dict[str, int | bool]:
    """A linear layer of some hundred rows and its shrink."""
    constants = _shrink_constants(in_features, num_modules, num_live, page_elements)
    return compile_kernel(linear_and_shrink_apart, constants, {"maxnreg": 168}, MANY_ROWS)


def _shrink_constants(in_features: int, num_modules: int, num_live: int, page_elements: int) -> dict[str, int | bool]:
    tiling = Tiling(
        span=256,
        is_rowwise=True,
        is_split=True,
        has_few=True,
        has_many=True,
        shrink_few=64,
        live=num_live,
        expand_ranks=16,
    )
    return {
        "HAS_BIAS": False,
        "MODULES": num_modules,
        "WIDTH": 64 * num_modules,
        "IN": in_features,
        "PAGE": page_elements,
        "PIECES": tiling.num_pieces(in_features),
        "ROUNDS": tiling.num_rounds(in_features),
        "RECORD": RECORD,
        "LIVE": tiling.live,
    }


def _compile_tiles(
    kernel, num_rows: int, out_features: int, constants: dict[str, int | bool], max_registers: int
) -> dict[str, int | bool]:
    """Of a linear layer of this size."""
    tiles = Tiles.of(num_rows, out_features)
    assert tiles is not None
    sizes = {"ROWS": tiles.rows, "PARTS": tiles.parts, "STAGES": tiles.stages}
    boxes = {"weight_desc": (HEIGHT, WIDTH), "x_desc": (tiles.rows * tiles.parts, WIDTH)}
    return compile_kernel(kernel, {**sizes, **constants}, {"maxnreg": max_registers}, boxes)


def compile_with_expand(constants: dict[str, int | bool]) -> dict[str, int | bool]:
    """A linear layer of many rows and its expand."""
    return compile_kernel(linear_and_expand, {"HAS_BIAS": True, **constants}, {"maxnreg": 168}, MANY_ROWS)


def compile_gated() -> dict[str, int | bool]:
    """A gated linear layer of many rows with SwiGLU's product."""
    return compile_kernel(linear_silu_mul, {}, {"maxnreg": 168}, {**MANY_ROWS, "weight_desc": (HALF, STEP)})


def compile_norm(columns: int) -> dict[str, int | bool]:
    """Of a cluster's rows, with so many columns for each of its programs."""
    constants = {"COLUMNS": columns, "PIECES": 4, "BRIDGE": 64, "RECORD": RECORD, "PAGE": PAGE_ELEMENTS, "RANKS": 16}
    return compile_kernel(norm_rows, constants, {"num_warps": columns // 256, "num_ctas": PROGRAMS})


def main() -> None:
    qkv = {"OUT0": 4096, "OUT1": 1024, "OUT2": 1024, "WIDTH": 192, "PAGE": PAGE_ELEMENTS, "RECORD": RECORD}
    shape = {"HAS_WINDOW": True, "NUM_KV_HEADS": 8, "GROUP": 4, "HEAD_DIM": 128, "BLOCK_SIZE": 16, "BLOCK_SEQS": 128}
    split = {"BLOCK_TOKENS": 64, "MIN_SPLIT": 512, "MAX_SPLITS": 32, "STAGES": hopper.DECODE_STAGES}
    chunk = {"BLOCK_TOKENS": hopper.PREFILL_TOKENS, "STAGES": hopper.PREFILL_STAGES}
    print(
        json.dumps(
            {
                "decode": compile_kernel(decode, {**shape, **split}, {"maxnreg": 128}),
                "prefill": compile_kernel(prefill, {**shape, **chunk}, {"maxnreg": 168}),
                "norm": compile_norm(512),
                "norm, wide": compile_norm(1024),
                "linear, 1 row": compile_linear(1, 12288),
                "linear, 32 rows": compile_linear(32, 12288),
                "linear, 32 rows, narrow": compile_linear(32, 1280),
                "linear, 64 rows": compile_linear(64, 12288),
                "linear and expand": compile_with_expand(qkv),
                "linear and SiLU": compile_gated(),
                "linear and shrink, 1 row": compile_with_shrink(1, 6144, 4096),
                "linear and shrink, 32 rows, narrow": compile_with_shrink(32, 1280, 14336),
                "linear and shrink, 64 rows": compile_with_shrink(64, 4096, 14336),
                "linear and shrink, 64 rows of q k v": compile_with_shrink(64, 6144, 4096, 3, 512),
                "linear and shrink, 1 row, long rows": compile_with_shrink(1, 6144, 8192, page_elements=4096),
                "linear and shrink, apart, long rows": compile_with_shrink_apart(8192, 3, 512, page_elements=4096),
                "linear and shrink, apart": compile_with_shrink_apart(14336, 1, 1024),
                "linear and shrink, apart, q k v": compile_with_shrink_apart(4096, 3, 512),
            }
        )
    )


if __name__ == "__main__":
    main()
