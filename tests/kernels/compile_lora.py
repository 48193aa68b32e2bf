"""Compiles the kernels that LoRA adds to a layer of Llama-3-8B for sm_90 where there is no GPU; prints JSON.

A process of its own: Triton decides when it is imported whether it compiles or interprets.
"""

import json
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.activation.kernel import _silu_mul
from kernels.lora.kernel.expand import _expand
from kernels.lora.kernel.shrink import _shrink
from kernels.norm.kernel.by_row import _norm_rows
from kernels.rope.kernel import _rotate_and_write

POINTERS = {
    **dict.fromkeys(("x", "pages", "lora_pages", "output", "hidden", "update", "weight", "gate_up", "qkv"), "*bf16"),
    **dict.fromkeys(("cosines", "sines", "head_norm", "output0", "output1", "output2"), "*bf16"),
    **dict.fromkeys(("page_table", "starts", "records", "owners", "is_by_row", "row_start"), "*i32"),
    **dict.fromkeys(("slots", "rows"), "*i64"),
    "bridge": "*fp32",
}
ALIGNED = ("x_stride", "row_stride", "hidden_stride", "update_stride", "stride0", "stride1", "stride2", "width")
PAGE = {"PAGE": 2 * 16 * 8 * 128, "RECORD": 16, "CHAINED": True}
LONG = {"PAGE": 2 * 16 * 128}  # with one KV head: some rows are longer than a page, none than two
TILED = {**PAGE, "MODULES": 3, "WIDTH": 192, "PIECES": 4, "ROWWISE": True, "HAS_MANY": True, "FEW": 8}
SPLIT = {
    "IN": 4096,
    "SPLIT": True,
    "HAS_FEW": True,
    "SPAN": 256,
    "SPANS": 4,
    "FEW_RANKS": 16,
    "STAGES": 3,
    "MANY_STAGES": 3,
    "ON_GPU": True,
}
SHRINK = {**SPLIT, "ROUNDS": 1, "STEPS": 1, "MANY_COST": 6, "ROWS": 32, "RANKS": 32, "LIVE": 512, "PRECISION": None}
WIDTHS = {
    "OUT0": 4096,
    "OUT1": 1024,
    "OUT2": 1024,
    "COLUMNS": 128,
    "RUNS": 4,
    "FEW_ROWWISE": True,
    "UNLESS_BY_ROW": True,
}
EXPAND = {**WIDTHS, "HAS_FEW": True, "ROWS": 32, "LARGE_ROWS": 256, "HAS_LATER": False, "LIVE": 512, "PRECISION": None}
RANKS = {  # of an expand: of the largest rank an adapter has
    16: {"RANKS": 16, "FEW_COLUMNS": 128, "STAGES": 3},
    64: {"RANKS": 64, "FEW_COLUMNS": 64, "STAGES": 3},
}
BY_ROW = {**PAGE, "HAS_DELTA": True, "PIECES": 4, "BRIDGE": 192, "RANKS": 16, "RUNWISE": True, "EARLY": True}
ROTATION = {"BLOCK_SIZE": 16, "NUM_HEADS": 32, "NUM_KV_HEADS": 8, "HEAD_DIM": 128, "LANES": 64, "HEADS": 4}


def compile_kernel(kernel, constants: dict[str, int | bool | None], num_warps: int, max_registers: int | None = None):
    names = kernel.arg_names
    types = {**POINTERS, "epsilon": "fp32"}
    if constants.get("PIECES", 1) == 1:  # the sum of one piece is left rounded
        types["bridge"] = "*bf16"
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in (*POINTERS, *ALIGNED)},
    )
    options = {"num_warps": num_warps, **({} if max_registers is None else {"maxnreg": max_registers})}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = compiled.asm["ptx"]
    return {
        "shared_bytes": compiled.metadata.shared,
        "is_chained": "griddepcontrol.wait" in ptx and "griddepcontrol.launch_dependents" in ptx,
        "wide_loads": len(re.findall(r"ld\.global[\w.:]*\.v4|cp\.async\.cg", ptx)),
        "word_loads": len(re.findall(r"ld\.global[\w.:]*\.[bu]32", ptx))
        - len(re.findall(r"ld\.global[\w.:]*\.v[24]\.[bu]32", ptx)),
        "narrow_loads": len(re.findall(r"ld\.global[\w.:]*\.[bu]16", ptx)),
    }


def main() -> None:
    expand = {**TILED, **EXPAND}
    large_shrink = {**TILED, **SHRINK, "SPLIT": False, "PIECES": 1, "ROWS": 64, "STEPS": 2, "MANY_STAGES": 4}
    large_expand = {**expand, "HAS_FEW": False, "PIECES": 1}
    norm = {**BY_ROW, "ADDS": True, "GATHERS": False, "RUNS": 4, "RUN": 1024}
    print(
        json.dumps(
            {
                "shrink": compile_kernel(_shrink, {**TILED, **SHRINK}, 4, 232),
                "shrink of a large batch": compile_kernel(_shrink, large_shrink, 4, 232),
                "shrink of long rows": compile_kernel(
                    _shrink, {**TILED, **SHRINK, **LONG, "IN": 8192, "PIECES": 8}, 4, 232
                ),
                "expand": compile_kernel(_expand, {**expand, **RANKS[16]}, 4, 232),
                "expand of long rows": compile_kernel(_expand, {**expand, **RANKS[16], **LONG, "OUT0": 8192}, 4, 232),
                "expand of rank 64": compile_kernel(_expand, {**expand, **RANKS[64]}, 4, 232),
                "expand of a large batch": compile_kernel(_expand, {**large_expand, **RANKS[16]}, 4, 168),
                "expand of rank 64 of a large batch": compile_kernel(
                    _expand, {**large_expand, **RANKS[64], "ROWS": 16}, 4, 128
                ),
                "norm": compile_kernel(_norm_rows, norm, 16),
                "silu_mul": compile_kernel(_silu_mul, {**BY_ROW, "RUNS": 1, "RUN": 256}, 1),
                "silu_mul of many rows": compile_kernel(
                    _silu_mul, {**BY_ROW, "EARLY": False, "RUNS": 1, "RUN": 256}, 1
                ),
                "rotation": compile_kernel(_rotate_and_write, {**BY_ROW, **ROTATION, "HAS_NORM": False}, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
