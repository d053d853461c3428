"""What a spool is filled with, and whether somebody who comes back to it goes on in the same way."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from geal_edge.config import GuardKind
from geal_edge.errors import SpoolMismatch
from geal_edge.runtime.budget import parse_cap
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.spooldb import SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """What a spool is filled with; all of it must be the same whenever it is opened for writing again.

    bundle         digest of the bundle
    feature_space  the id under which its clusters may be compared
    preset         its name
    grid           (rows, columns) of patches
    budget         selected units at most, per round; in all for a spool of recorded sources
    release        when selected units become final (release.py); recorded sources: at the end of their one round
    length_s       how long a round lasts, in seconds of the clock that rounds run on; None: until it is ended
    group_s        the tolerance that forms units, in seconds (units.py); None: every frame is a unit
    guard          which frames are gated (guard.py); None: none
    caps           of a live source: all caps of its budget (budget.py), as text
    shadow         decide and count, and write no frame
    """

    bundle: str
    feature_space: str
    preset: str
    grid: tuple[int, int]
    untrained: bool
    budget: int
    release: ReleaseRule = "round_end"
    length_s: float | None = None
    group_s: float | None = None
    guard: GuardKind | None = None
    caps: tuple[str, ...] = ()
    shadow: bool = False

    @property
    def max_unit_bytes(self) -> float:
        """What is larger could never be released, and would hold up all that is ordered behind it."""
        caps = [parse_cap(cap) for cap in self.caps]
        return min((cap.limit for cap in caps if cap.counts == "bytes"), default=math.inf)

    def meta(self) -> dict[str, str]:
        """Rows of the table `meta`; a round has rows of its own for budget, release and length."""
        rows = {
            "schema": SCHEMA,
            "bundle": self.bundle,
            "feature_space": self.feature_space,
            "preset": self.preset,
            "grid": json.dumps(self.grid),
            "untrained": json.dumps(self.untrained),
        }
        if self.group_s is not None:
            rows["group_s"] = json.dumps(float(self.group_s))
        if self.guard is not None:
            rows["guard"] = self.guard
        if self.caps:
            rows["caps"] = json.dumps(self.caps)
        if self.shadow:
            rows["shadow"] = "true"
        return rows


def require_same(spool: Path, found: dict[str, str], wanted: dict[str, str]) -> None:
    """Raise SpoolMismatch for what a spool keeps for ever; both are of the table `meta`."""
    if found.get("group_s") != wanted.get("group_s"):
        was, now = (_group_words(meta.get("group_s")) for meta in (found, wanted))
        raise SpoolMismatch(
            f"{spool}: its units were formed with {was}, now it is {now}. Its budget counts such units: "
            f"go on with {was}, or use another --spool."
        )
    if found.get("guard") != wanted.get("guard"):
        was, now = (_guard_words(meta.get("guard")) for meta in (found, wanted))
        raise SpoolMismatch(
            f"{spool}: its frames were judged with {was}, now it is {now}. Go on with {was}, or use another --spool."
        )
    if found.get("caps") != wanted.get("caps"):
        was, now = (_caps_words(meta.get("caps")) for meta in (found, wanted))
        raise SpoolMismatch(f"{spool}: its budget is {was}, now it is {now}. Go on with {was}, or use another --spool.")
    if found.get("shadow") != wanted.get("shadow"):
        was, now = ("--shadow" if "shadow" in meta else "no --shadow" for meta in (found, wanted))
        raise SpoolMismatch(
            f"{spool}: was filled with {was}, now it is {now}. Go on with {was}, or use another --spool."
        )


def require_same_round(
    spool: Path, settings: SpoolSettings, *, budget: int, release: str, length_s: float | None
) -> None:
    """Raise SpoolMismatch where the open round has another budget, rule or length."""
    if budget != settings.budget:
        raise SpoolMismatch(
            f"{spool}: its budget is {budget}, not {settings.budget}. "
            f"Its round is open: go on with --budget {budget}, or use another --spool."
        )
    if (release, length_s) != (settings.release, settings.length_s):
        raise SpoolMismatch(
            f"{spool}: its round is open and releases by {_rule_words(release, length_s)}, not by "
            f"{_rule_words(settings.release, settings.length_s)}. Go on as it was, or use another --spool."
        )


def _rule_words(release: str, length_s: float | None) -> str:
    return release if length_s is None else f"{release} over {length_s:g} s"


def _group_words(group_s: str | None) -> str:
    return "no --group" if group_s is None else f"--group {float(group_s):g}"


def _caps_words(caps: str | None) -> str:
    return "a number in all" if caps is None else " ".join(f"--budget {cap}" for cap in json.loads(caps))


def _guard_words(guard: str | None) -> str:
    return "no --guard" if guard is None else f"--guard {guard}"
