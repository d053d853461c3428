"""What files and environment say, key by key, and where each was said. Nothing is judged here but that it is TOML at all.

geal-edge.toml, then conf.d/*.toml beside it in the order of their names, then GEAL_EDGE_<SECTION>__<KEY>; later ones win.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FRAGMENTS = "conf.d"
_VARIABLE = re.compile(r"GEAL_EDGE_([A-Za-z0-9_]+?)__(\w+)")
MAX_BYTES = 1_000_000
"""A configuration that is longer is no configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A value that was given.

    section, name  of the key; name None: a section that is empty, or something else where a section should be
    value          of TOML's types; of a variable its text, unread; of a flag None, where it takes back what files said
    where          "geal-edge.toml:12", or the name of the variable or flag
    """

    section: str
    name: str | None
    value: Any
    where: str
    from_variable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong, where it was said, and what would be right."""

    where: str
    what: str

    def repeats(self, other: "Fault") -> bool:
        """Whether the other says the same of the same file: of a section that is unknown every key would."""
        return self.what == other.what and self.where.partition(":")[0] == other.where.partition(":")[0]

    def __str__(self) -> str:
        """In one line, and with nothing that a terminal would obey."""
        return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in f"{self.where}: {self.what}")


def said_in_files(path: Path) -> Iterator[Said | Fault]:
    """All that a configuration and the fragments beside it say, in their order."""
    yield from _said_in(path, path.name)
    try:
        fragments = sorted(
            entry for entry in (path.parent / FRAGMENTS).iterdir() if entry.suffix == ".toml" and entry.name[0] != "."
        )
    except FileNotFoundError:
        return
    except OSError as error:
        yield Fault(where=FRAGMENTS, what=f"cannot be read ({error.strerror})")
        return
    for fragment in fragments:
        yield from _said_in(fragment, f"{FRAGMENTS}/{fragment.name}")


def said_in_environment(environ: Mapping[str, str]) -> Iterator[Said]:
    """GEAL_EDGE_<SECTION>__<KEY>, in the order of their names; other variables of ours have no `__`."""
    for variable in sorted(environ):
        if found := _VARIABLE.fullmatch(variable):
            section, name = found[1].lower(), found[2].lower()
            yield Said(section=section, name=name, value=environ[variable], where=variable, from_variable=True)


def _said_in(path: Path, name: str) -> Iterator[Said | Fault]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        yield Fault(where=name, what=f"cannot be read ({error.strerror})")
        return
    if len(data) > MAX_BYTES:
        yield Fault(where=name, what=f"is longer than {MAX_BYTES} bytes: no configuration is")
        return
    try:
        text = data.decode()
        tables = tomllib.loads(text + "\n")  # or a fault in the last line is one "at end of document"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield Fault(where=f"{name}:{line}", what="is not UTF-8")
        return
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        yield _not_toml(name, error)
        return
    lines = _lines(text)
    for section, table in tables.items():
        if not isinstance(table, dict) or not table:
            yield Said(section=section, name=None, value=table, where=_where(name, lines, (section,)))
            continue
        for key, value in table.items():
            yield Said(section=section, name=key, value=value, where=_where(name, lines, (section, key)))


def _not_toml(name: str, error: Exception) -> Fault:
    """The library tells the place at the end of its sentence."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
    if found is None:
        too_much = "it is nested too deeply" if isinstance(error, RecursionError) else "a number in it is far too long"
        return Fault(where=name, what=f"is no TOML: {too_much}")
    place = f"{name}:{found[2]}" if found[2] else name
    return Fault(where=place, what=f"is no TOML: {found[1][:1].lower()}{found[1][1:]}")


_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_ASSIGNMENT = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Key -> the line that begins it; for people, since the library does not tell: at worst a line too early."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    inside: str | None = None  # of text over several lines
    for number, line in enumerate(text.split("\n"), start=1):
        if inside is not None:
            inside = None if inside in line else inside
            continue
        if header := _HEADER.fullmatch(line):
            table = _path(header[1])
            found.setdefault(table, number)
        elif assigned := _ASSIGNMENT.match(line):
            key = table + _path(assigned[1])
            for length in range(1, len(key) + 1):
                found.setdefault(key[:length], number)
        inside = next((mark for mark in ('"""', "'''") if line.count(mark) == 1), None)
    return found


def _path(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _where(name: str, lines: dict[tuple[str, ...], int], key: tuple[str, ...]) -> str:
    while key and key not in lines:
        key = key[:-1]
    return f"{name}:{lines[key]}" if key else name
