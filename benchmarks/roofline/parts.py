"""Which kernel belongs to which part of a step. A new kernel gets its line here, and nowhere else."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from benchmarks.kernels.floors import Work
from benchmarks.roofline import case
from benchmarks.roofline.case import Case
from worker.memory.layout import GROUPS


@dataclass(frozen=True)
class Part:
    """Kernels whose names a pattern finds, and the floor of their work in a step.

    Attributes:
        name: For people.
        pattern: A regular expression.
        floor: Of the base model's work.
        share: What is more if the part multiplies by adapters' A or B on its way.
        elsewhere: Which part does that instead, in steps in which it runs.
    """

    name: str
    pattern: str
    floor: Callable[[Case], Work] = case.nothing
    share: Callable[[Case], Work] = case.nothing
    elsewhere: str = ""

    def work(self, step: Case, names: Collection[str]) -> Work:
        """The least that this part has to do in a step in which parts of these names run."""
        return self.floor(step) if self.elsewhere in names else self.floor(step) + self.share(step)


SHRINK = "LoRA shrink"
# The linear layers run one kernel each, in this order in every layer, and the head after the last: they are told
# apart by counting. What a split product is added up with belongs to the product before it, a shrink to the one after.
_NAMES = dict(zip(("qkv", "o", "gate_up", "down"), GROUPS, strict=True))
LINEARS = tuple(
    Part(f"{name} GEMM", "", case.linear(group), case.begun(group), f"{name} {SHRINK}")
    for name, group in _NAMES.items()
)
SHRINKS = tuple(Part(f"{name} {SHRINK}", "", case.shrink(group)) for name, group in _NAMES.items())
HEAD = Part("head GEMM", "", case.head)
TOGETHER = Part(  # where their number is not that of whole steps
    "linear layers (not told apart)", "", case.every_product, case.begun(*GROUPS), SHRINK
)
PRODUCT = re.compile(r"nvjet|gemm|gemv|cutlass|xmma|matmul|linear", re.IGNORECASE)
PRODUCT_TAIL = re.compile(r"splitKreduce|_add_splits", re.IGNORECASE)

EXPAND, SILU = "LoRA expand", "SiLU"
# The first whose pattern is found in the name counts.
PARTS = (
    Part("LoRA plan", r"_plan\b|_count_live|_store_starts"),
    Part(SHRINK, r"^_?shrink", case.shrink(*GROUPS)),
    Part(EXPAND, r"^_?expand", case.expand(*GROUPS)),
    Part("attention", r"^_?(decode|prefill|merge)\b|_attend", case.attention),
    Part("rope, KV write", r"rotate|_angles|write_kv", case.rope, case.share(case.QKV), EXPAND),
    Part("norm", r"norm", case.norm, case.share(case.O, case.DOWN), EXPAND),
    Part(SILU, r"^_?silu", case.silu, case.share(case.GATE_UP), EXPAND),
    Part("sampling", r"find_peaks|count_places|^weigh|^choose|penalise|^_count\b|argmax", case.sampling),
    Part("adapter loads", r"copy_pages"),
)
# Where linear layers of gate and up give the product, too, only a last layer of few rows has it apart. Their floor
# counts gate and up as written, which is nothing beside their arithmetic.
GATED = re.compile(r"^linear_silu_mul")
LAST_SILU = Part("SiLU, last layer", "", case.last_silu)
EMBEDDING = Part("embedding, tables", r"gather|scatter|index|elementwise|fill|cat|copy", case.embedding)
COPIES = Part("copies to and from the host", r"^Mem(cpy|set)")
OTHER = Part("other", "")

ALL = (*LINEARS, *SHRINKS, HEAD, TOGETHER, *PARTS, LAST_SILU, EMBEDDING, COPIES, OTHER)


def parts_of(names: Sequence[str], num_layers: int) -> list[Part]:
    """The part of each kernel of whole steps, in the order in which they ran."""
    order = [*LINEARS * num_layers, HEAD]
    named = [_named(name) for name in names]
    is_product = [part is None and not PRODUCT_TAIL.search(name) for part, name in zip(named, names, strict=True)]
    if sum(is_product) % len(order):
        order = [TOGETHER]
    is_gated = any(map(GATED.search, names))
    num_products, last = 0, OTHER
    found = []
    for part, starts in zip(named, is_product, strict=True):
        if starts:
            last = order[num_products % len(order)]
            num_products += 1
        if part is None:
            found.append(last)
        elif part.name == SHRINK and order != [TOGETHER]:
            found.append(SHRINKS[num_products % len(order) % len(SHRINKS)])
        else:
            found.append(LAST_SILU if is_gated and part.name == SILU else part)
    return found


def _named(name: str) -> Part | None:
    """None for products and their tails."""
    for part in (COPIES, *PARTS):
        if re.search(part.pattern, name):
            return part
    if PRODUCT.search(name) or PRODUCT_TAIL.search(name):
        return None
    return EMBEDDING if re.search(EMBEDDING.pattern, name, re.IGNORECASE) else OTHER
