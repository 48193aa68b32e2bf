"""Typed access to the values of adapter_config.json; each mistake is named with its key."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from adapter_store.config import Limits
from adapter_store.errors import AdapterConfigInvalid, AdapterTooLarge


def shown(value: Any) -> str:
    """A value as it stands in the file, cut to a line."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Fields:
    """The settings of one adapter.

    Every method raises AdapterConfigInvalid for a value of another type or range, and AdapterTooLarge beyond a limit.
    """

    def __init__(self, values: Mapping[str, Any], limits: Limits) -> None:
        self._values = values
        self._limits = limits

    def _wrong(self, key: str, expected: str, value: Any) -> NoReturn:
        raise AdapterConfigInvalid(f"{key} must be {expected}, got {shown(value)}", field=key)

    def integer(self, key: str, default: int, minimum: int) -> int:
        """An integer of at least `minimum`."""
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            self._wrong(key, f"an integer of at least {minimum}", value)
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        return self._finite(key, self._values.get(key, default))

    def _finite(self, key: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not _fits_float(value):
            self._wrong(key, "a finite number", value)
        return float(value)

    def _rank(self, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self._wrong(key, "a positive integer", value)
        if value > self._limits.max_rank:
            raise AdapterTooLarge(f"{key} is {value}, more than the rank of {self._limits.max_rank} allowed", field=key)
        return value

    def boolean(self, key: str) -> bool:
        """A flag; false if not set. A text such as "false" is refused: Python would take it for true."""
        value = self._values.get(key)
        if not isinstance(value, bool | None):
            self._wrong(key, "true or false", value)
        return bool(value)

    def text(self, key: str) -> str | None:
        """A text, or None."""
        value = self._values.get(key)
        if not isinstance(value, str | None):
            self._wrong(key, "a text", value)
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """One integer or a list of them."""
        value = self._values.get(key)
        values = [value] if isinstance(value, int) else value or []
        if not isinstance(values, list) or any(not isinstance(v, int) or isinstance(v, bool) for v in values):
            self._wrong(key, "an integer or a list of integers", value)
        self._bound(key, values)
        return tuple(values)

    def names(self, key: str) -> tuple[str, ...]:
        """One text or a list of them, as a list; an empty text is none."""
        value = self.names_or_expression(key)
        return ((value,) if value else ()) if isinstance(value, str) else value or ()

    def names_or_expression(self, key: str) -> str | tuple[str, ...] | None:
        """A text, a list of texts, or None."""
        value = self._values.get(key)
        if value is None:
            return None
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
            self._wrong(key, "a text or a list of texts", value)
        self._bound(key, names)
        return value if isinstance(value, str) else tuple(names)

    def ranks(self, key: str) -> tuple[tuple[str, int], ...]:
        """A mapping from modules to ranks, in the file's order."""
        return tuple((name, self._rank(f"{key}[{name!r}]", value)) for name, value in self._mapping(key).items())

    def alphas(self, key: str) -> tuple[tuple[str, float], ...]:
        """A mapping from modules to numbers, in the file's order."""
        return tuple((name, self._finite(f"{key}[{name!r}]", value)) for name, value in self._mapping(key).items())

    def _mapping(self, key: str) -> dict[str, Any]:
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._wrong(key, "a mapping from modules to numbers", value)
        self._bound(key, list(value))
        return value

    def _bound(self, key: str, entries: list[Any]) -> None:
        if len(entries) > self._limits.max_patterns:
            raise AdapterTooLarge(
                f"{key} has {len(entries)} entries, more than the {self._limits.max_patterns} allowed", field=key
            )
        if any(isinstance(entry, str) and len(entry) > self._limits.max_pattern_chars for entry in entries):
            raise AdapterTooLarge(
                f"{key} has an entry longer than the {self._limits.max_pattern_chars} characters allowed", field=key
            )


def _fits_float(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
