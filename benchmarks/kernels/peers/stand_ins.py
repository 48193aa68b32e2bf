"""What peers' op files import beside torch and triton, in as few lines as they need.

The ops are a few files in packages that import a whole engine. `loaded` makes packages that run no `__init__`, and
puts these modules in place of those of the engine, for as long as the ops are imported.
"""

import importlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints


class NotInstalled(Exception):
    """A peer's files are not in the folder."""


@contextmanager
def loaded(folder: Path, packages: tuple[str, ...], modules: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Lets `import` find files of `packages` under `folder`, and `modules` with these contents.

    Peers' own modules stay in `sys.modules` afterwards; what stands in for libraries does not.

    Raises:
        NotInstalled: if a package is not in the folder.
    """
    root = packages[0]
    if not (folder / root).is_dir():
        raise NotInstalled(f"no folder {folder / root}; unpack the wheel there")
    before = dict(sys.modules)
    for name in packages:
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    for name, contents in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        module.__path__ = []
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in list(sys.modules):
            if name.partition(".")[0] != root and name in modules:
                del sys.modules[name]
                if name in before:
                    sys.modules[name] = before[name]


def version(folder: Path, package: str) -> str:
    """The version of the wheel that was unpacked, by its metadata folder."""
    found = sorted(folder.glob(f"{package}-*.dist-info"))
    return found[0].name.removeprefix(f"{package}-").removesuffix(".dist-info") if found else "unknown"


def load(name: str) -> Any:
    """Imports one."""
    return importlib.import_module(name)


class Settings:
    """Environment settings of a peer, each with a `get`, `False` unless told otherwise."""

    def __init__(self, **values: object) -> None:
        self._values = values

    def __getattr__(self, name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(get=lambda: self._values.get(name, False))


class Struct:
    """In place of msgspec's: a frozen record."""

    def __init_subclass__(cls, **options: bool) -> None:
        dataclass(frozen=True, kw_only=True)(cls)


class Record:
    """In place of pydantic's BaseModel: fields by annotation, nested records and enums, defaults and factories."""

    @classmethod
    def model_validate(cls, values: Mapping[str, Any]) -> "Record":
        """Builds one from JSON."""
        record = cls()
        hints = get_type_hints(cls, sys.modules[cls.__module__].__dict__)
        if unknown := set(values) - set(hints):
            raise ValueError(f"{cls.__name__} has no {sorted(unknown)}")
        for name, hint in hints.items():
            default = getattr(cls, name, None)
            value = default() if callable(default) else default
            if isinstance(value, Record):
                value = type(value).model_validate({})
            setattr(record, name, _convert(values[name], hint) if name in values else value)
        return record

    def model_dump(self) -> dict[str, Any]:
        """Its fields."""
        return dict(vars(self))


def _convert(value: Any, hint: Any) -> Any:
    if value is None:
        return None
    for choice in (hint,) if get_origin(hint) is list else get_args(hint) or (hint,):
        if get_origin(choice) is list:
            return [_convert(item, get_args(choice)[0]) for item in value]
        if isinstance(choice, type) and issubclass(choice, Record):
            return choice.model_validate(value)
        if isinstance(choice, type) and issubclass(choice, Enum):
            return choice(value)
    return value


def _field(*, default_factory: Callable[[], object]) -> Callable[[], object]:
    return staticmethod(default_factory)


PYDANTIC = {
    "BaseModel": Record,
    "ConfigDict": dict,
    "Field": _field,
    "model_validator": lambda **_: lambda method: method,
}
