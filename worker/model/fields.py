"""Typed reading of a Hugging Face configuration: every wrong or missing key is named."""

from collections.abc import Mapping

from worker.model.errors import ModelConfigInvalid

_ABSENT = object()


class Fields:
    """The keys of one JSON object.

    `defaults` is what transformers assumes for keys that are left out; a key that is in neither is an error.
    """

    def __init__(self, values: Mapping[str, object], defaults: Mapping[str, object], source: str) -> None:
        self._values = {**defaults, **values}
        self._source = source

    def integer(self, key: str, *, minimum: int = 1) -> int:
        """An integer of at least `minimum`."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.invalid(key, f"is {value!r} and has to be an integer of at least {minimum}")
        return value

    def optional_integer(self, key: str, *, minimum: int = 1) -> int | None:
        """As `integer`, or null."""
        return None if self._get(key) is None else self.integer(key, minimum=minimum)

    def positive(self, key: str) -> float:
        """A number above 0."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.invalid(key, f"is {value!r} and has to be a number above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.invalid(key, f"is {value!r} and has to be true or false")
        return value

    def text(self, key: str) -> str:
        """A string."""
        value = self._get(key)
        if not isinstance(value, str):
            raise self.invalid(key, f"is {value!r} and has to be a string")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of strings, or null."""
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.invalid(key, f"is {value!r} and has to be a list of strings")
        return tuple(value)

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id, a list of them, or null for none."""
        value = self._get(key)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
            raise self.invalid(key, f"is {value!r} and has to be a token id, a list of them, or null")
        return tuple(ids)

    def mapping(self, key: str) -> Mapping[str, object] | None:
        """An object, or null."""
        value = self._get(key)
        if value is not None and not isinstance(value, dict):
            raise self.invalid(key, f"is {value!r} and has to be an object")
        return value

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(key) is not None

    def invalid(self, key: str, problem: str) -> ModelConfigInvalid:
        """The error for a key: `problem` follows its name."""
        return ModelConfigInvalid(f"{self._source}: {key} {problem}", field=key)

    def _get(self, key: str) -> object:
        value = self._values.get(key, _ABSENT)
        if value is _ABSENT:
            raise self.invalid(key, "is missing")
        return value
