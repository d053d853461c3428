"""Which rule holds for which unit of a spool: the one that was in force when it was stored, that of the last run, and that of
whoever lets it out.

What leaves must satisfy all. So a hook that is configured later also guards what is on disk already, and one that is taken out
of the configuration guards what was stored under it as long as that is there.

The spool remembers rules as `privacy` of its settings, from which unit on each holds. Of a hook it knows the name alone: what
a spool says is never run, since nobody knows who wrote it.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from geal_edge.config import Position, PrivacyConfig, PrivacyMoment

RANK: dict[Position, int] = {"keep": 0, "coarsen": 1, "strip": 2}
"""How little of a position is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a spool remembers of a PrivacyConfig. hook: its program or function, without arguments; None: there is none."""

    hook: str | None = None
    when: PrivacyMoment = "upload"
    position: Position = "keep"


NONE = Rule()


def rule_of(config: PrivacyConfig | None) -> Rule:
    """NONE where nothing is asked for, however it is said.

    >>> rule_of(PrivacyConfig(command=("/usr/bin/blur", "--faces"))).hook
    '/usr/bin/blur'
    >>> rule_of(PrivacyConfig()) == rule_of(None) == NONE
    True
    """
    if config is None or (config.command is None and config.python is None and config.position == "keep"):
        return NONE
    hook = config.python if config.command is None else config.command[0]
    return Rule(hook=hook, when=config.when, position=config.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What is still to be done to a picture of a unit before it leaves.

    hook      name of the hook that it must pass; None where it passed one before it was stored, or none is asked for
    position  of the picture and its metadata
    done      nothing: what is stored may leave as it is
    """

    hook: str | None
    position: Position
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """since: (first unit, rule) in their order; own: the rule of who asks, NONE where it has none.

    >>> stored = Rules(since=((1, Rule(hook="/usr/bin/blur", when="append")), (8, NONE)))
    >>> stored.want(3).done, stored.want(8).done
    (True, True)
    >>> Rules(since=((1, Rule(hook="/usr/bin/blur")), (8, NONE))).want(3)
    Want(hook='/usr/bin/blur', position='keep', done=False)
    """

    since: tuple[tuple[int, Rule], ...]
    own: Rule = NONE

    @property
    def last(self) -> Rule:
        """What is stored now is under it."""
        return self.since[-1][1] if self.since else NONE

    @property
    def strictest(self) -> Rule:
        """All that any of them asks for together: for what is read again from a source, past the spool."""
        return _together(self.own, self.last, *(rule for _, rule in self.since))

    def under(self, unit: int) -> Rule:
        """The one that it was stored under."""
        return next((rule for first, rule in reversed(self.since) if first <= unit), NONE)

    def asked(self, unit: int) -> Rule:
        """What a unit has passed once it has left."""
        return _together(self.own, self.last, self.under(unit))

    def want(self, unit: int) -> Want:
        was, asked = self.under(unit), self.asked(unit)
        hook = None if was.when == "append" and was.hook is not None else asked.hook
        is_there = asked.position == "keep" or (was.when == "append" and was.position == asked.position)
        return Want(hook=hook, position=asked.position, done=hook is None and is_there)


def _together(*rules: Rule) -> Rule:
    hook = next((rule.hook for rule in rules if rule.hook is not None), None)
    return Rule(hook=hook, position=max((rule.position for rule in rules), key=RANK.__getitem__))


def read_rules(meta: Mapping[str, str], own: PrivacyConfig | None = None) -> Rules:
    """Those of a spool with these settings. own: what the configuration of who asks says; None where it says nothing."""
    since = json.loads(meta.get("privacy", "[]"))
    return Rules(since=tuple((int(first), Rule(**rule)) for first, rule in since), own=rule_of(own))


def note_rule(db: sqlite3.Connection, rules: Rules, rule: Rule, next_unit: int) -> None:
    """Within a transaction: what is stored from this unit on is under another rule than that of `rules` so far."""
    since = [(first, asdict(each)) for first, each in (*rules.since, (next_unit, rule))]
    db.execute("INSERT OR REPLACE INTO meta VALUES ('privacy', ?)", (json.dumps(since),))
