"""What a configuration may say, for people and editors: the reference table of docs/service.md, JSON Schema, and a
configuration as it is in force."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from geal_edge.runtime.secrets import masked
from geal_edge.runtime.settings.reading import Configuration
from geal_edge.runtime.settings.sections import KEYS, SECTIONS, Key
from geal_edge.runtime.settings.values import json_schema, toml, words


def effective(configuration: Configuration, *, origin: bool) -> Iterator[str]:
    """Lines of TOML: every key with its value in force, secrets never; with `origin` where each comes from."""
    width = max(len(_assignment(configuration, key)) for key in KEYS.values()) if origin else 0
    for name in SECTIONS:
        yield f"[{name}]"
        for key in KEYS.values():
            if key.section == name:
                line = _assignment(configuration, key)
                yield f"{line:<{min(width, 60)}}  # {configuration.origins[str(key)]}" if origin else line
        yield ""


def digest(configuration: Configuration) -> str:
    """sha256 of the values in force, as `effective` tells them: without secrets, and without `[vehicle]`, so that vehicles that
    are configured alike have one digest."""
    lines = [f"{key.section}.{_assignment(configuration, key)}" for key in KEYS.values() if key.section != "vehicle"]
    return "sha256:" + sha256("\n".join(lines).encode()).hexdigest()


def _assignment(configuration: Configuration, key: Key) -> str:
    value = configuration.value(key)
    return f"# {key.name}: not given" if value is None else f"{key.name} = {masked(toml(value))}"


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a file, for editors. A fragment says what it likes, so nothing is required; ranges are known
    to the dataclasses alone."""
    properties: dict[str, Any] = {}
    for name, section in SECTIONS.items():
        keys = [key for key in KEYS.values() if key.section == name]
        properties[name] = {
            "type": "object",
            "description": section.about,
            "additionalProperties": False,
            "properties": {key.name: _property(key) for key in keys},
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "geal-edge.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _property(key: Key) -> dict[str, Any]:
    described = {"description": key.meaning, **json_schema(key.hint)}
    if not key.required and key.default not in (None, ()):
        described["default"] = key.default
    return described


def table() -> Iterator[str]:
    """The lines of the reference in docs/service.md: a table for each section."""
    for name, section in SECTIONS.items():
        yield f"### [{name}]"
        yield ""
        yield section.about
        yield ""
        yield "| key | value | default | meaning |"
        yield "| --- | --- | --- | --- |"
        for key in KEYS.values():
            if key.section == name:
                reload = " ↻" if key.reload else ""
                yield f"| `{key.name}`{reload} | {_cell(words(key.hint))} | {_default(key)} | {_cell(key.meaning)} |"
        yield ""


def _default(key: Key) -> str:
    if key.required:
        return "must be given"
    return "" if key.default in (None, ()) else f"`{toml(key.default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
