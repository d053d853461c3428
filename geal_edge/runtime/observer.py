"""Who watches a long job: told of sources, frames and warnings as they come. The command line draws a progress line from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that happened beside the frames: an event of the spool."""

    name: str
    detail: dict[str, Any]


class Observer(Protocol):
    """All calls come from the working thread, between frames."""

    def begin(self, what: str, total: int | None) -> None:
        """A countable piece of work starts: `total` steps, or None if unknown."""

    def advance(self, **counts: int) -> None:
        """One step is done; `counts` are what is worth showing beside it (retained=12, lost=1)."""

    def warn(self, message: str) -> None:
        """Something that the person should know, and that does not stop the job."""

    def take_notices(self) -> Sequence[Notice]:
        """What is to be an event. A run asks with every unit, and while none comes: whoever asks is alive."""


class Silent:
    """Watches nothing."""

    def begin(self, what: str, total: int | None) -> None:
        pass

    def advance(self, **counts: int) -> None:
        pass

    def warn(self, message: str) -> None:
        pass

    def take_notices(self) -> Sequence[Notice]:
        return ()
