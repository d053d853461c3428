"""Reading, encoding and selecting at one time: each in a thread of its own, on frames that follow each other.

    items (read, decoded, resized)  ->  then (encoded)  ->  the caller (clusters, decision, spool)
    thread "geal-edge read"             "geal-edge encode"  the thread that asks

OpenCV, Pillow and ONNX Runtime work without Python's lock, so the three share the machine's cores. What comes out, and in
which order, is what one thread would give: each step has one thread, sees the items in their order, and keeps whatever
state it has to itself. An error comes up at the place of the item that it belongs to, behind all items before it. Decisions,
the spool and everything that a decision changes stay with the caller.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import chain
from queue import Empty, SimpleQueue
from typing import TypeVar

from geal_edge.runtime.stopping import Stop

T = TypeVar("T")
U = TypeVar("U")

AHEAD = 2
"""Items of each step that are made or in the making before the next step asks: one to hand over while the next is made. With
the caller's own there are at most five frames in memory."""

_WAKE_S = 0.2
"""Who waits looks up so often: a signal that came to another thread, or just before the wait began, is heeded only then."""


def overlapped(
    items: Generator[T, None, None], then: Callable[[T], U], *, ahead: int, stop: Stop
) -> Generator[U, None, None]:
    """`then` of each item, in their order; close it, so that its threads end with the loop over it.

    ahead  how far each step may be ahead of the one behind it, in items; 0: no threads, and an item is looked for when the one
           before it is done, as a live source wants it whose newest frame is asked for. It says soon that none came

    Raises Interrupted before the next item once `stop` was asked, and with threads at once while it waits for one; closing it
    then waits for the items in the making, which nobody will see, and no longer. Whatever `items` and `then` raise is raised
    here, in its place.

    >>> with closing(overlapped((n for n in range(4)), lambda n: n * n, ahead=AHEAD, stop=Stop())) as squares:
    ...     list(squares)
    [0, 1, 4, 9]
    """
    if not ahead:
        with closing(stop.between(items, at_once=False)) as each:
            for item in each:
                yield then(item)
        return
    read = _ahead(items, lambda item: item, ahead, "geal-edge read")
    yield from stop.between(_ahead(read, then, ahead, "geal-edge encode"))


def _ahead(items: Generator[T, None, None], then: Callable[[T], U], ahead: int, name: str) -> Generator[U, None, None]:
    """`then` of each item, made by a thread of that name which is at most `ahead` of them ahead.

    The first item is looked for by the calling thread: a source that goes on after its cursor may skip through an hour of video
    first, and a signal can end that there alone. `then` is never called there: a signal in the middle of an encoder would be
    taken for a fault of the engine.
    """
    # Queues of C, and nothing else between the threads: a signal may raise in the caller anywhere, and leaves no lock taken.
    room: SimpleQueue[None] = SimpleQueue()
    made: SimpleQueue[tuple[U] | BaseException | None] = SimpleQueue()  # None: there are no more
    ended = False

    def work() -> None:
        try:
            with closing(items):
                while True:
                    room.get()
                    if ended:
                        return
                    made.put((next(each),))
        except StopIteration:
            made.put(None)
        except BaseException as error:  # noqa: BLE001  raised again by whoever asks for the item
            made.put(error)

    try:
        found = chain((next(items),), items)
    except StopIteration:
        return
    each = (then(item) for item in found)
    # A daemon: where a source hangs, a second Ctrl-C leaves it behind, and the process ends all the same.
    thread = threading.Thread(target=work, name=name, daemon=True)
    for _ in range(ahead):
        room.put(None)
    try:
        thread.start()
        while True:
            try:
                outcome = made.get(timeout=_WAKE_S)
            except Empty:
                continue
            if outcome is None:
                return
            if isinstance(outcome, BaseException):
                raise outcome
            room.put(None)
            yield outcome[0]
    finally:
        ended = True
        room.put(None)
        while thread.is_alive():
            thread.join(_WAKE_S)
