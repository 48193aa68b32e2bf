"""A YAML text as a tree whose values know their line."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from control_plane.policy.problems import PolicyError, PolicyProblem, ProblemList

MAX_CHARACTERS = 256 * 1024

_NULL = "tag:yaml.org,2002:null"
_STRING = "tag:yaml.org,2002:str"
_MAPPING = "tag:yaml.org,2002:map"
_LIST = "tag:yaml.org,2002:seq"

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping, and its value."""

    key: yaml.Node
    value: yaml.Node


def parse(text: str) -> yaml.Node:
    """The root of the text's tree. Raises PolicyError if the text is empty, too long or no YAML."""
    if len(text) > MAX_CHARACTERS:
        raise _broken(f"the file has {len(text)} characters: at most {MAX_CHARACTERS} are read")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise _broken(f"this is not YAML: {error.problem or error.context}", line) from error
    except yaml.YAMLError as error:
        raise _broken(f"this is not YAML: {error}") from error
    except RecursionError as error:
        raise _broken("values are nested too deeply") from error
    if root is None:
        raise _broken("the file is empty: a policy has at least `name` and `scorers`")
    return root


def entries(node: yaml.Node, path: str, problems: ProblemList) -> dict[str, Entry] | None:
    """A mapping's entries by key; nothing at all counts as an empty mapping. None, and a problem, for anything else."""
    if node.tag == _NULL:
        return {}
    if not isinstance(node, yaml.MappingNode) or node.tag != _MAPPING:
        problems.add(node, path, "must be a mapping, `key: value` on each line")
        return None
    found: dict[str, Entry] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != _STRING:
            problems.add(key, path, "keys must be plain text")
        elif key.value in found:
            first = found[key.value].key.start_mark.line + 1
            problems.add(key, joined(path, key.value), f"is given twice, first on line {first}: keep one")
        else:
            found[key.value] = Entry(key, value)
    return found


def items(node: yaml.Node, path: str, problems: ProblemList) -> list[yaml.Node] | None:
    """A list's values; nothing at all counts as an empty list. None, and a problem, for anything else."""
    if node.tag == _NULL:
        return []
    if not isinstance(node, yaml.SequenceNode) or node.tag != _LIST:
        problems.add(node, path, "must be a list, `- ` before each entry")
        return None
    return list(node.value)


def scalar(node: yaml.Node) -> Scalar | yaml.Node:
    """A plain value; the node itself if it is a mapping or a list, or of a type that policies have no use for."""
    if not isinstance(node, yaml.ScalarNode):
        return node
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        return node
    finally:
        loader.dispose()
    return value if isinstance(value, str | int | float | bool | None) else node


def refuse_unknown(
    found: dict[str, Entry], known: Iterable[str], path: str, problems: ProblemList, *, noun: str = "key"
) -> None:
    """Add a problem for every key that is not known."""
    known = tuple(known)
    for name, entry in found.items():
        if name not in known:
            problems.add(entry.key, joined(path, name), f"unknown {noun}: {suggestion(name, known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """What was probably meant, or everything that can be meant."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return "use one of " + ", ".join(f"`{each}`" for each in known) if known else "it takes none"


def find(root: yaml.Node, path: str) -> yaml.Node | None:
    """The value at a path such as `filters[0].share`; None if the text does not give it."""
    node: yaml.Node | None = root
    for key, index in _STEP.findall(path):
        if isinstance(node, yaml.SequenceNode) and index:
            node = node.value[int(index)] if int(index) < len(node.value) else None
        elif isinstance(node, yaml.MappingNode):
            node = next((value for each, value in node.value if each.value == key), None)
        else:
            return None
    return node


def joined(path: str, key: str) -> str:
    """The path of a key below a path."""
    return f"{path}.{key}" if path else key


def _broken(message: str, line: int = 0) -> PolicyError:
    return PolicyError((PolicyProblem(line, "", message),))
