"""Read a configuration whole: every fault is named at once, each with its place, its value and what is allowed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from geal_edge.config import GateConfig, UploadConfig
from geal_edge.errors import ConfigError, UsageError
from geal_edge.runtime.conditions import Condition
from geal_edge.runtime.pipeline import require_context_can_be
from geal_edge.runtime.secrets import masked
from geal_edge.runtime.settings.files import Fault, Said, said_in_environment, said_in_files
from geal_edge.runtime.settings.sections import KEYS, NO_CAP, SECTIONS, Key, Settings
from geal_edge.runtime.settings.values import from_text, toml, typed

DEFAULT = "default"
MAX_SHOWN = 200
"""Characters of a value in a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A configuration that was checked.

    path      the file
    settings  its values
    origins   key as `section.name` -> where its value was said, or "default"
    """

    path: Path
    settings: Settings
    origins: Mapping[str, str]

    def value(self, key: Key) -> Any:
        """None where it, or all of its section, is not given."""
        values = getattr(self.settings, key.into)
        return None if values is None else getattr(values, key.name)


def read_configuration(path: Path, environ: Mapping[str, str], flags: Sequence[Said] = ()) -> Configuration:
    """What the file, the fragments beside it, the environment and the command line say together; later ones win.

    Raises ConfigError with all faults.
    """
    told = list(said_in_files(path))
    faults = [item for item in told if isinstance(item, Fault)]
    whole = not faults
    given: dict[str, tuple[Any, str]] = {}
    for said in [*(item for item in told if isinstance(item, Said)), *said_in_environment(environ), *flags]:
        key = KEYS.get(f"{said.section}.{said.name}")
        if key is None:
            faults += [fault for fault in _unknown(said) if not any(map(fault.repeats, faults))]
            continue
        value = None
        if said.value is None:
            given.pop(str(key), None)
            continue
        try:
            told_value = from_text(key.hint, said.value) if said.from_variable else said.value
            value = _checked(key, told_value, path.parent)
        except ValueError as error:
            faults.append(Fault(where=said.where, what=f"{key} = {_shown(said)}: {error}"))
        except UsageError as error:
            faults.append(Fault(where=said.where, what=_with_key(key, said, str(error))))
        given[str(key)] = value, said.where
    if whole:  # else it may stand where nobody could read it
        begun = {KEYS[name].into for name in given}
        required = [key for key in KEYS.values() if key.required and (not key.optional or key.into in begun)]
        faults += [_missing(key, path) for key in required if str(key) not in given]
        if not any(KEYS[name].into == "budget" for name in given if name != "budget.release") and faults:
            faults.append(Fault(where=path.name, what=NO_CAP))
    if not faults:
        settings, faults = _whole(path, given)
        if settings is not None:
            origins = {name: given[name][1] if name in given else DEFAULT for name in KEYS}
            return Configuration(path=path, settings=settings, origins=origins)
    raise ConfigError(_sentence(path, faults))


def _checked(key: Key, value: Any, folder: Path) -> Any:
    """The value in the key's type. Raises ValueError or UsageError where its dataclass would not have it, whatever else is."""
    found = typed(key.hint, value, folder)
    others = {other.name: other.example for other in KEYS.values() if other.into == key.into and other.required}
    key.config(**{**others, key.name: found})
    if key.config is GateConfig and key.name in ("only_if", "inhibit"):  # config.py knows no conditions
        wrong = [str(error) for condition in found if (error := _no_condition(condition)) is not None]
        if wrong:
            raise UsageError("; ".join(wrong))
    if key.config is UploadConfig and key.name == "to":  # nor far sides; loaded late, as few configurations name one
        from geal_edge.runtime.upload.store import require_far_side

        require_far_side(found)
    return found


def _no_condition(text: str) -> UsageError | None:
    try:
        Condition(text)
    except UsageError as error:
        return error
    return None


def _whole(path: Path, given: Mapping[str, tuple[Any, str]]) -> tuple[Settings | None, list[Fault]]:
    """All values together, each of which is right alone."""
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, (value, _) in given.items():
        values[KEYS[name].into][KEYS[name].name] = value
    built: dict[str, Any] = {}
    faults: list[Fault] = []
    for into, (config, optional) in {key.into: (key.config, key.optional) for key in KEYS.values()}.items():
        try:
            built[into] = None if optional and not values[into] else config(**values[into])
        except UsageError as error:
            faults.append(Fault(where=path.name, what=f"{into}: {error}"))
    if faults:
        return None, faults
    settings = Settings(**built)
    try:
        plan = settings.budget.plan(settings.trip.gap_s)
        require_context_can_be((), plan.release, settings.context)
    except UsageError as error:
        in_words_of_the_file = str(error).replace("--release ", "release = ").replace("--budget ", "a budget of ")
        return None, [Fault(where=path.name, what=in_words_of_the_file)]
    return settings, []


def _unknown(said: Said) -> Iterable[Fault]:
    if said.name is not None and said.section in SECTIONS:
        own = [key.name for key in KEYS.values() if key.section == said.section]
        near = [f"[{said.section}] {name}" for name in get_close_matches(said.name, own, n=1)]
        near += [f"[{key.section}] {key.name}" for key in KEYS.values() if key.name == said.name]
        near += [f"[{said.name}]"] if said.name in SECTIONS else []
        allowed = f"[{said.section}] has {', '.join(own)}"
        what = f"{said.section}.{said.name}: no such key"
    elif said.section in SECTIONS:
        if said.value == {}:
            return
        near, allowed = [], f"write [{said.section}], and its keys below it"
        what = f"{said.section} = {_shown(said)}: must be a section"
    elif said.name is None and not isinstance(said.value, dict | list):
        near = [f"[{key.section}] {key.name}" for key in KEYS.values() if key.name == said.section]
        allowed = f"sections are {', '.join(SECTIONS)}"
        what = f"{said.section}: stands in no section"
    else:
        near = [f"[{name}]" for name in get_close_matches(said.section, SECTIONS, n=1, cutoff=0.7)]
        allowed = f"sections are {', '.join(SECTIONS)}"
        what = f"{said.section}: no such section"
    yield Fault(where=said.where, what=f"{what}; {f'did you mean {near[0]}?' if near else allowed}")


def _missing(key: Key, path: Path) -> Fault:
    example = f"{key.name} = {toml(key.example)}"
    return Fault(where=path.name, what=f"{key}: must be given, in [{key.section}] as {example}")


def _with_key(key: Key, said: Said, message: str) -> str:
    """What a dataclass says of a field, in the words of the file."""
    if message.startswith(f"{key.name} = "):
        return masked(f"{key.section}.{message}")
    return masked(f"{key} = {_shown(said)}: {message}")


def _shown(said: Said) -> str:
    """A value as it was given, but for what may be a secret, and not more of it than a person reads."""
    text = masked(said.value if said.from_variable else toml(said.value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _sentence(path: Path, faults: Sequence[Fault]) -> str:
    problems = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
    return f"{path}: {problems}\n" + "\n".join(f"  {fault}" for fault in faults)
