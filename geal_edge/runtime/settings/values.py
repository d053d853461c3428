"""From what TOML or the environment says to a field's type, and what a field's type allows, in words and as JSON Schema."""

import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PLAIN: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "boolean"),
    int: ("a whole number", "integer"),
    float: ("a number", "number"),
    str: ("text", "string"),
    Path: ("a path", "string"),
}
"""Type -> its words, its type in JSON Schema."""

MOST = 10**15
"""A number beyond it is no size, time or count of anything here, and what reckons with it would overflow."""


def typed(hint: Any, value: Any, folder: Path) -> Any:
    """`value`, of TOML's types, as the type `hint`; a path that is not absolute counts from `folder`.

    hint  bool, int, float, str, Path, Literal of text, tuple[X, ...] of these, a union of such, or with None
    Raises ValueError with the words that say what it must be.

    >>> typed(tuple[Path, ...], ["labelled.memory"], Path("/etc/geal-edge"))
    (PosixPath('/etc/geal-edge/labelled.memory'),)
    >>> typed(int | None, 2.5, Path())
    Traceback (most recent call last):
    ValueError: must be a whole number
    """
    if type(value) in (int, float) and MOST < abs(value) < math.inf:
        raise ValueError(f"must be {words(hint)}, and not so large")
    for kind in _kinds(hint):
        if get_origin(kind) is tuple and isinstance(value, list):
            with suppress(ValueError):
                return tuple(typed(get_args(kind)[0], item, folder) for item in value)
        elif type(value) is kind or (
            get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind)
        ):
            return value
        elif kind is float and type(value) is int:
            return float(value)
        elif kind is Path and isinstance(value, str) and value and "\0" not in value:
            return folder / value
    raise ValueError(f"must be {words(hint)}")


def from_text(hint: Any, text: str) -> Any:
    """The value, of TOML's types, in an environment variable: as it stands in a file, but text without quotes.

    Raises ValueError with the words that say what it must be.

    >>> from_text(str | tuple[str, ...], "yes"), from_text(str | tuple[str, ...], '["a", "b"]'), from_text(str, "7")
    ('yes', ['a', 'b'], '7')
    """
    texts = [kind in (str, Path) or get_origin(kind) is Literal for kind in _kinds(hint)]
    if all(texts):
        return text
    try:
        found = tomllib.loads(f"value = {text}")
        if list(found) == ["value"]:
            return found["value"]
    except ValueError:
        pass
    if any(texts):
        return text
    raise ValueError(f"must be {words(hint)}")


def words(hint: Any) -> str:
    """What a value of this type is.

    >>> words(Literal["pixels", "all"] | None), words(str | tuple[str, ...])
    ('one of "all", "pixels"', 'text or a list of texts, as ["..."]')
    """
    return " or ".join(map(_words, _kinds(hint)))


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(toml(value) for value in sorted(get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f'a list of {"paths" if get_args(kind)[0] is Path else "texts"}, as ["..."]'
    return _PLAIN[kind][0]


def json_schema(hint: Any) -> dict[str, Any]:
    """The same as JSON Schema.

    >>> json_schema(str | tuple[str, ...])
    {'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'string'}}]}
    """
    found = [_json_schema(kind) for kind in _kinds(hint)]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _json_schema(kind: Any) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        return {"enum": sorted(get_args(kind))}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": json_schema(get_args(kind)[0])}
    return {"type": _PLAIN[kind][1]}


def toml(value: Any) -> str:
    """A value as it stands in a file.

    >>> toml((Path("/data/a"), 'say "b"')), toml(True), toml(2e8)
    ('["/data/a", "say \\\\"b\\\\""]', 'true', '200000000.0')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        return '"' + "".join(_escaped(str(value))) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, int) and value.bit_length() > 256:
        return hex(value)  # Python refuses to write thousands of digits
    return str(value)


def _escaped(text: str) -> Iterable[str]:
    for letter in text:
        if letter in '\\"':
            yield f"\\{letter}"
        elif ord(letter) < 32 or ord(letter) == 127:
            yield f"\\u{ord(letter):04x}"
        else:
            yield letter


def _kinds(hint: Any) -> list[Any]:
    """The members of a union but None: TOML has no null, so a value that is there is one of the others."""
    if get_origin(hint) in (UnionType, Union):
        return [kind for kind in get_args(hint) if kind is not NoneType]
    return [hint]
