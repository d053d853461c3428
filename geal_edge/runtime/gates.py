"""Gates: frames that the encoder is not asked about, since they come too soon, show the view of a moment ago, or are not wanted.

    frame -> gates -> guard -> encoder -> ...

What a gate holds back is gated: it counts as seen, with its reason, and no decision and no guard sees it. In this order:

    inhibited       a condition on its metadata says that nothing is wanted now (conditions.py)
    condition       one that must hold does not, or nobody can say whether it does
    too_soon        less than `min_interval_s` of capture time after the last frame of its camera that was looked at. A frame
                    from before that one is none too soon: a clock that was set back blocks nothing, nor does one that stands.
                    Nor is one without a time
    standing_still  it shows the view of the last frame of its camera that was looked at (below)

A frame was looked at if it passed the gates and the guard found nothing broken. What is remembered of it, its time and a small
copy, is stored with the decision on it, so that a recorded source goes on after a kill as in one uninterrupted run.

Standing still is seen by the edges of a thin copy of the picture, 80 x 48 grey cells: where the vehicle moves, edges move, each
by so much of its own height as the view shifted. So the change of the sharpest fifth of all cells is divided by how sharp they
were, less what flat cells change by (noise), after the two pictures were made equally bright; if three quarters of them changed
by less than `MAX_SHIFT`, the vehicle stood. What covers fewer edges than that, a wiper or a pedestrian, does not make a view
another. `python -m benchmarks.standing` measures it on recorded drives.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geal_edge.config import GateConfig
from geal_edge.errors import FrameError, FrameGated
from geal_edge.runtime.conditions import Condition
from geal_edge.runtime.frame import Frame, Image

HELD_BACK = frozenset(("inhibited", "condition", "too_soon", "standing_still"))

COLUMNS, ROWS, SAMPLES = 80, 48, 2
"""Cells of the thin copy, and pixels that are read of each, down and across."""
SHARPEST, QUIETEST, MOVED = 0.2, 0.5, 0.75
"""Shares: of cells that count as edges, of cells that tell the noise, and of edges that must not have moved."""
MIN_EDGE = 6.0
"""Levels: an edge that is weaker is as one of this height, since noise alone makes such edges."""
MAX_SHIFT = 0.12
"""Of an edge's height; recorded drives have 0.2 and more between frames half a second apart."""
_OFFSET = 8.0
"""Levels added before pictures are made equally bright: black has no ratio."""

TABLE = """
CREATE TABLE IF NOT EXISTS gates (
  source TEXT NOT NULL, camera TEXT NOT NULL, last_ns INTEGER, view BLOB, PRIMARY KEY (source, camera)) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedAt:
    """What the gates remember of a camera's last frame that was looked at.

    last_ns  its capture time; None where it had none
    view     its thin copy, ROWS x COLUMNS bytes; None where nobody asks whether the vehicle stands
    """

    last_ns: int | None = None
    view: bytes | None = None


class Gates:
    """Ask `before` of every frame in order; of each that passes the guard as well, tell what it said to `learn`.

    Raises UsageError for what is no condition.

    >>> gates = Gates(GateConfig(min_interval_s=1.0))
    >>> for ms in (0, 600, 1000, 100):
    ...     frame = Frame(id="f", source="s", frame_index=0, capture_time_ns=ms * 10**6, image=np.zeros((9, 9, 3), np.uint8))
    ...     try:
    ...         gates.learn(frame.topic, gates.before(frame))
    ...         print("passed")
    ...     except FrameGated as gate:
    ...         print(gate.reason)
    passed
    too_soon
    passed
    passed
    """

    def __init__(self, config: GateConfig, known: Mapping[str | None, LookedAt] | None = None) -> None:
        self._config = config
        self._only_if = [Condition(text) for text in config.only_if]
        self._inhibit = [Condition(text) for text in config.inhibit]
        self._interval_ns = round(config.min_interval_s * 1e9)
        self._last = dict(known or {})

    def before(self, frame: Frame) -> LookedAt:
        """What is to be remembered of a frame if it is looked at. Raises FrameGated where it is held back."""
        for condition in self._inhibit:
            if condition.ask(frame.metadata):
                raise FrameGated("inhibited", f"{condition.text}")
        for condition in self._only_if:
            answer = condition.ask(frame.metadata)
            if not answer:
                raise FrameGated(
                    "condition", f"{condition.text}: {'is not known' if answer is None else 'does not hold'}"
                )
        last = self._last.get(frame.topic, LookedAt())
        now_ns = frame.capture_time_ns
        if now_ns is not None and last.last_ns is not None and 0 < now_ns - last.last_ns < self._interval_ns:
            after_s = (now_ns - last.last_ns) / 1e9
            raise FrameGated("too_soon", f"{after_s:.3f} s after the last one that was looked at")
        if not self._config.standing_still:
            return LookedAt(last_ns=now_ns)
        view = view_of(frame.image)
        if last.view is not None:
            moved = shift(np.frombuffer(last.view, np.uint8).reshape(ROWS, COLUMNS), view)
            if moved < MAX_SHIFT:
                raise FrameGated("standing_still", f"the view moved by {moved:.2f} of its edges, {MAX_SHIFT} is moving")
        return LookedAt(last_ns=now_ns, view=view.tobytes())

    def learn(self, camera: str | None, looked_at: LookedAt) -> None:
        """A frame of this camera is looked at."""
        self._last[camera] = looked_at


def held_back(answer: object) -> bool:
    """Whether a gate is why nobody looks at a frame: then no guard has seen it."""
    return isinstance(answer, FrameError) and answer.reason in HELD_BACK


def view_of(image: Image) -> npt.NDArray[np.uint8]:
    """The thin copy of a picture, uint8 (H, W, 3) of any size: luminance (ROWS, COLUMNS)."""
    down = np.arange(ROWS * SAMPLES) * image.shape[0] // (ROWS * SAMPLES)
    across = np.arange(COLUMNS * SAMPLES) * image.shape[1] // (COLUMNS * SAMPLES)
    read = image[down[:, None], across].astype(np.uint16)
    grey = read[..., 0] + 2 * read[..., 1] + read[..., 2]
    cells = grey.reshape(ROWS, SAMPLES, COLUMNS, SAMPLES).sum(axis=(1, 3), dtype=np.uint32)
    view: npt.NDArray[np.uint8] = (cells // (4 * SAMPLES * SAMPLES)).astype(np.uint8)
    return view


def shift(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> float:
    """By how much of their height three quarters of a view's edges changed at most, from one thin copy to another.

    >>> street = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS), np.uint8)
    >>> shift(street, street), shift(street, np.roll(street, 1, axis=1)) > 0.5
    (0.0, True)
    """
    old = before.astype(np.float32) + _OFFSET
    new = after.astype(np.float32) + _OFFSET
    change = np.abs(new / np.median(new / old) - old)
    down = np.abs(np.diff(old, axis=0, prepend=old[:1]))
    across = np.abs(np.diff(old, axis=1, prepend=old[:, :1]))
    edge = np.maximum(down, across)
    weakest, flattest = np.quantile(edge, (1.0 - SHARPEST, QUIETEST))
    noise = np.median(change[edge <= flattest])
    sharp = edge >= weakest
    moved = np.maximum(change[sharp] - noise, 0.0) / np.maximum(edge[sharp], MIN_EDGE)
    return float(np.quantile(moved, MOVED))


def store_gates(db: sqlite3.Connection, looked_at: Mapping[tuple[str, str | None], LookedAt]) -> None:
    """(source, camera) -> what is remembered. Within a transaction of the spool, together with the source's cursor."""
    db.executemany(
        "INSERT OR REPLACE INTO gates VALUES (?, ?, ?, ?)",
        [(source, camera or "", last.last_ns, last.view) for (source, camera), last in looked_at.items()],
    )


def stored_gates(db: sqlite3.Connection, source: str) -> dict[str | None, LookedAt]:
    """Camera -> what is remembered of it; a source without topics is one camera, None."""
    rows = db.execute("SELECT camera, last_ns, view FROM gates WHERE source = ?", (source,))
    return {camera or None: LookedAt(last_ns=last_ns, view=view) for camera, last_ns, view in rows}
