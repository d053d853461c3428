"""The one way out of a spool for the bytes of its pictures: whoever gives them away reads them here, and gets what may be seen.

    Door.read: what the rules want of its unit is done already -> as it is stored
               an output is stored that passed it (Outbox.guarded) -> that output
               else                                            -> through the filter now, or PrivacyError where nobody gave one

Outputs are files among the frames (00000001.p00.jpg, p01, ...: the unit's frames first, then its context), each with a row in a
table of its own. They are stored before the first byte of a unit is sent, and go with it: each try sends the same bytes, unless
the rules ask for more by then than what they were made under.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from geal_edge.config import Position, PrivacyConfig
from geal_edge.errors import FrameError, PrivacyError
from geal_edge.runtime.context import ContextFrame
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.lostcommits import unit_of
from geal_edge.runtime.privacy.filter import About, PrivacyFilter
from geal_edge.runtime.privacy.rules import NONE, RANK, Want, read_rules
from geal_edge.runtime.spooldb import FRAMES

TABLE = """
CREATE TABLE IF NOT EXISTS guarded (
  unit INTEGER NOT NULL, original TEXT NOT NULL, file TEXT NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,
  earlier INTEGER NOT NULL, hook TEXT, position TEXT NOT NULL, PRIMARY KEY (unit, original)) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a hook made of a picture, as it stands in the spool.

    file     its name among the frames
    earlier  how many pictures before it left the spool, or wait to, as the same bytes
    hook, position  what it has passed; a hook by its name, None for none
    """

    file: str
    bytes: int
    sha256: str
    earlier: int
    hook: str | None = None
    position: Position = "keep"

    def suffices(self, want: Want) -> bool:
        """Whether it may leave: the rules may have changed since it was made."""
        return (want.hook in (None, self.hook)) and RANK[self.position] >= RANK[want.position]


def knows_what_passed(db: sqlite3.Connection) -> bool:
    """Whether there are outputs that say what they have passed; those of an earlier version do not, and are made anew."""
    return db.execute("SELECT 1 FROM pragma_table_info('guarded') WHERE name = 'hook'").fetchone() is not None


def stored_outputs(db: sqlite3.Connection, unit: int | None = None) -> dict[str, Output]:
    """Name of the original among the frames -> output; of one unit, or of all."""
    if not knows_what_passed(db):
        return {}
    rows = db.execute(
        "SELECT original, file, bytes, sha256, earlier, hook, position FROM guarded WHERE unit = coalesce(?, unit)",
        (unit,),
    )
    return {
        original: Output(file=file, bytes=size, sha256=digest, earlier=earlier, hook=hook, position=position)
        for original, file, size, digest, earlier, hook, position in rows
    }


def store_outputs(db: sqlite3.Connection, unit: int, made: Sequence[tuple[str, str, bytes]], want: Want) -> bool:
    """(original, file, bytes) of a released unit, within a transaction of the outbox, when the files are safe; False where it is
    not to be sent any more. want: what was done to them."""
    if db.execute("SELECT 1 FROM units WHERE unit = ? AND state = 'released'", (unit,)).fetchone() is None:
        return False
    for original, file, data in made:
        digest = sha256(data).hexdigest()
        # What was sent has no row here any more, and its key for ever.
        (sent,) = db.execute("SELECT count(*) FROM acknowledged WHERE key GLOB ?", (f"*{digest}*",)).fetchone()
        (waits,) = db.execute("SELECT count(*) FROM guarded WHERE sha256 = ?", (digest,)).fetchone()
        db.execute(
            "INSERT INTO guarded VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (unit, original, file, len(data), digest, sent + waits, want.hook, want.position),
        )
    return True


def forget_outputs(db: sqlite3.Connection, unit: int) -> list[str]:
    """The unit is sent, evicted or too old: as forget_context."""
    files = [output.file for output in stored_outputs(db, unit).values()]
    if files:
        db.execute("DELETE FROM guarded WHERE unit = ?", (unit,))
    return files


class Door:
    """What may leave a spool. privacy: what whoever asks does to pictures; None where it does not say."""

    def __init__(self, db: sqlite3.Connection, spool: Path, *, privacy: PrivacyFilter | None = None) -> None:
        self._spool = spool
        self.rules = read_rules(
            dict(db.execute("SELECT key, value FROM meta")), None if privacy is None else privacy.config
        )
        self._outputs = stored_outputs(db)
        self._filter = privacy or PrivacyFilter(PrivacyConfig())

    def want(self, unit: int) -> Want:
        """Raises PrivacyError where its pictures must pass a hook, and nobody has said how it is run."""
        want = self.rules.want(unit)
        self._require(want.hook)
        return want

    def _require(self, hook: str | None) -> None:
        if hook is not None and not self._filter.has_hook:
            raise PrivacyError(
                f"{self._spool}: its pictures must pass {hook} before they leave, and what a spool names is never run. "
                "Give the configuration that has it in [privacy], with --config FILE."
            )

    def read(self, file: Path, digest: str, about: About) -> bytes:
        """Of a picture among the frames whose stored bytes have this sha256 (hex).

        Raises FrameError where they cannot be had, `privacy` where the hook did not do its work; PrivacyError.
        """
        output = self._outputs.get(file.name)
        if output is not None and output.suffices(self.rules.want(unit_of(file.name))):
            return stored_bytes(self._spool / FRAMES / output.file, output.sha256)
        return self.made(file, digest, about)

    def made(self, file: Path, digest: str, about: About) -> bytes:
        """The same, made now whether there is an output or not."""
        want = self.want(unit_of(file.name))
        data = stored_bytes(file, digest)
        if want.done:
            return data
        return self._filter(data, file.suffix[1:], about, position=want.position, hook=want.hook is not None)

    def again(self, frame: Frame, data: bytes, ending: str) -> bytes:
        """A frame of this spool that was read from its source once more, as a file, which knows nothing of all this.

        Raises FrameError `privacy`, PrivacyError.
        """
        rule = self.rules.strictest
        self._require(rule.hook)
        if rule == NONE:
            return data
        about = About(id=frame.id, source=frame.source, capture_time_ns=frame.capture_time_ns)
        hook = rule.hook is not None
        return self._filter(data, ending, about, position=rule.position, hook=hook, image=frame.image)


def stored_bytes(file: Path, digest: str) -> bytes:
    """Raises FrameError, `unreadable` or `altered`, where they are not what was stored: nobody is given something else."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FrameError("unreadable", f"{file.name} cannot be read ({error.strerror})") from error
    if sha256(data).hexdigest() != digest:
        raise FrameError("altered", f"the bytes of {file.name} are not those that were stored")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A picture of a spool that may be asked for its bytes, as `extract` and `report` do."""

    file: Path
    sha256: str
    about: About
    door: Door

    def read(self) -> bytes:
        """As Door.read."""
        return self.door.read(self.file, self.sha256, self.about)

    def beside(self, context: ContextFrame) -> "Leaving":
        """A picture before or after it."""
        about = About(id=self.about.id, source=self.about.source, capture_time_ns=context.capture_time_ns)
        return Leaving(file=self.file.with_name(context.file), sha256=context.sha256, about=about, door=self.door)
