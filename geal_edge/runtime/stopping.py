"""Stopping well: asked at any moment, a job ends between two frames, and at once while it only waits for the next one."""

from collections.abc import Generator, Iterable
from typing import TypeVar

from geal_edge.errors import Interrupted

T = TypeVar("T")


class Stop:
    """Asked by a signal handler, heeded by the loop over frames. An unasked one stops nothing.

    >>> stop = Stop()
    >>> for n in stop.between(range(5)):
    ...     if n == 1:
    ...         stop.ask()  # in the middle of a frame: it is finished first
    Traceback (most recent call last):
    geal_edge.errors.Interrupted: Stopped. What was done is safe; the same command goes on from here.
    """

    def __init__(self) -> None:
        self.asked = False
        self._paused = False
        self._waiting = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self) -> None:
        """Called from a signal handler, so in the main thread between any two instructions."""
        before, self.asked = self.asked, True
        if self._waiting and not before:  # asked again, it is on its way already: what tidies up is not cut short
            self.heed()

    def pause(self) -> None:
        """As `ask`, but once: the next loop with this Stop begins as if nothing had been, and `asked` stays False."""
        self._paused = True

    def heed(self) -> None:
        """Raise Interrupted if it was asked."""
        paused, self._paused = self._paused, False
        if self.asked or paused:
            raise Interrupted("Stopped. What was done is safe; the same command goes on from here.")

    def between(self, items: Iterable[T], *, at_once: bool = True) -> Generator[T, None, None]:
        """The items; raises Interrupted before the next one once asked, and while a source looks for it (it may skip
        through an hour of video first). What the consumer does with an item is never interrupted, and with `at_once` False
        nor is what looks for one: it soon has one, and an exception at any of its lines would lose what it has in hand."""
        iterator = iter(items)
        try:
            while True:
                self._waiting = at_once
                self.heed()
                try:
                    item = next(iterator)
                except StopIteration:
                    self.heed()
                    return
                finally:
                    self._waiting = False
                # Asked meanwhile, it may have been swallowed where a decoder's errors of every kind are caught: what came of
                # that is no frame to be judged, nor the end of a source.
                self.heed()
                yield item
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
