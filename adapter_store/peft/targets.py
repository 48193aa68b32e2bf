"""Which weights an adapter's configuration changes, with which rank and scale: PEFT's rules on the model's modules."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from adapter_store.errors import AdapterConfigInvalid, AdapterNotFinite, AdapterUnsupported
from adapter_store.peft.config import LoraSettings
from adapter_store.peft.matcher import Query
from adapter_store.peft.modules import DEFAULT_TARGETS, ModuleName, module_names
from adapter_store.peft.patterns import is_simple, match_within
from adapter_store.types import BaseModel, Delta

ALL_LINEAR = "all-linear"
# From this many targets on, PEFT shortens full names to suffixes. The two mean the same, except under
# layers_to_transform, which a full name escapes and a suffix does not.
SHORTENED_TARGET_COUNT = 20
MAX_SCALE = (2 - 2**-23) * 2.0**127  # the largest float32, which is what scales are when they are used


def plan(settings: LoraSettings, model: BaseModel, *, regex_timeout_s: float) -> tuple[Delta, ...]:
    """What the adapter changes, in the order of the model's modules.

    Raises:
        AdapterConfigInvalid: An expression is invalid, or nothing is targeted.
        AdapterUnsupported: Something other than the seven linear modules of a layer is targeted.
        AdapterNotFinite: A scale is beyond float32.
    """
    names = module_names(model)
    _require_unambiguous(settings, names)
    matches = _match(settings, names, regex_timeout_s)
    targets = [index for index, name in enumerate(names) if _is_target(settings, name, matches, index)]
    if not targets:
        raise AdapterConfigInvalid(
            "the adapter targets no module of the base model; check target_modules, exclude_modules and "
            "layers_to_transform",
            field="target_modules",
        )
    return tuple(_delta(settings, names[index], matches, index) for index in targets)


@dataclass(frozen=True, slots=True)
class _Matches:
    """What every expression made of every module name: `[num_modules]`, the patterns `[num_patterns][num_modules]`.

    An entry is None without a match; for the layer patterns it is the layer's index otherwise.
    """

    target: Sequence[str | None] | None
    exclude: Sequence[str | None] | None
    layers: Sequence[Sequence[str | None]]
    ranks: Sequence[Sequence[str | None]]
    alphas: Sequence[Sequence[str | None]]


def _match(settings: LoraSettings, names: Sequence[ModuleName], timeout_s: float) -> _Matches:
    target, exclude = settings.target_modules, settings.exclude_modules
    is_target_expression = isinstance(target, str) and target.lower() != ALL_LINEAR
    targets = [target] if isinstance(target, str) and is_target_expression else []
    excludes = [exclude] if isinstance(exclude, str) and exclude else []
    layers = list(settings.layers_pattern)
    ranks = [pattern for pattern, _ in settings.rank_pattern]
    alphas = [pattern for pattern, _ in settings.alpha_pattern]
    queries = [
        *(Query(expression, whole=True) for expression in targets + excludes),
        *(Query(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", whole=False) for pattern in layers),
        *(Query(rf"(.*\.)?({pattern})$", whole=False) for pattern in ranks + alphas),
    ]
    simple = all(map(is_simple, targets + excludes + layers + ranks + alphas))
    found = iter(match_within(queries, [name.key for name in names], simple=simple, timeout_s=timeout_s))
    return _Matches(
        target=next(found) if targets else None,
        exclude=next(found) if excludes else None,
        layers=[next(found) for _ in layers],
        ranks=[next(found) for _ in ranks],
        alphas=[next(found) for _ in alphas],
    )


def _is_target(settings: LoraSettings, name: ModuleName, matches: _Matches, index: int) -> bool:
    if matches.exclude is not None:
        if matches.exclude[index] is not None:
            return False
    elif _is_named(name.key, settings.exclude_modules):
        return False
    if matches.target is not None:
        return matches.target[index] is not None
    if isinstance(settings.target_modules, str):
        return name.site is not None
    targets = DEFAULT_TARGETS if settings.target_modules is None else settings.target_modules
    if name.key in targets:
        return True
    return _is_named(name.key, targets) and _is_in_layers(settings, name, matches, index)


def _is_named(key: str, names: Collection[str]) -> bool:
    """Whether a list of names holds the module's full name or an end of it, cut at a dot."""
    parts = key.split(".")
    return any(".".join(parts[start:]) in names for start in range(len(parts)))


def _is_in_layers(settings: LoraSettings, name: ModuleName, matches: _Matches, index: int) -> bool:
    if not settings.layers_to_transform:
        return True
    if not settings.layers_pattern:
        return name.layer in settings.layers_to_transform
    layer = next((found[index] for found in matches.layers if found[index] is not None), None)
    return layer is not None and int(layer) in settings.layers_to_transform


def _delta(settings: LoraSettings, name: ModuleName, matches: _Matches, index: int) -> Delta:
    if name.site is None:
        raise AdapterUnsupported(
            f"the adapter targets {name.key}: only q, k, v, o, gate, up and down projections of decoder layers are "
            "supported, no embeddings, lm_head, norms or whole blocks",
            field="target_modules",
        )
    rank_at = _first_match(matches.ranks, index)
    alpha_at = _first_match(matches.alphas, index)
    rank = settings.rank if rank_at is None else settings.rank_pattern[rank_at][1]
    alpha = settings.alpha if alpha_at is None else settings.alpha_pattern[alpha_at][1]
    scale = alpha / (math.sqrt(rank) if settings.use_rslora else rank)
    if abs(scale) > MAX_SCALE:
        raise AdapterNotFinite(f"the scale of {name.key} is beyond float32; lower lora_alpha", field="lora_alpha")
    return Delta(name.site, rank, scale)


def _first_match(found: Sequence[Sequence[str | None]], index: int) -> int | None:
    return next((position for position, matches in enumerate(found) if matches[index] is not None), None)


def _require_unambiguous(settings: LoraSettings, names: Sequence[ModuleName]) -> None:
    targets = settings.target_modules
    if not isinstance(targets, tuple) or not settings.layers_to_transform:
        return
    keys = {name.key for name in names}
    if len(set(targets)) >= SHORTENED_TARGET_COUNT and any(target in keys for target in targets):
        raise AdapterUnsupported(
            f"layers_to_transform with {SHORTENED_TARGET_COUNT} or more targets, some of them full module names, is "
            "ambiguous; remove layers_to_transform",
            field="layers_to_transform",
        )
