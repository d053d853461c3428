"""Made-up pools of canonical rows for the selection benchmarks: visual words under topics, by Zipf's law, as a drive has them."""

from typing import TypeAlias

import numpy as np

from geal_edge.runtime.clusters import Float64, IntArray, Rows

WORDS, TOPICS = 800, 60
SCENE = 20
"""Frames of a scene in a video."""
FRAME_TO_FRAME = 0.995
"""Cosine of a row and the same one in the next frame of a scene."""
SWAPPED = 0.03
"""Share of a frame's rows that are something else in the next one."""

Pool: TypeAlias = tuple[Rows, IntArray]


def drawn(kind: str, frames: int, per_frame: int = 25, dim: int = 384, seed: int = 0) -> Pool:
    """(rows, offsets): "iid", every row drawn for itself, or "video", scenes of slowly changing frames."""
    rng = np.random.default_rng(seed)
    topics = _unit(_unit(rng.normal(size=(TOPICS, dim))) + 0.5 * _unit(rng.normal(size=dim)))
    words = _unit(topics[rng.integers(TOPICS, size=WORDS)] + 0.8 * _unit(rng.normal(size=(WORDS, dim))))
    tightness = rng.uniform(0.55, 0.93, WORDS)  # cosine of a row and its word
    weight = 1.0 / np.arange(1, WORDS + 1)

    def draw(count: int) -> Float64:
        word = rng.choice(WORDS, count, p=weight / weight.sum())
        return _near(words[word], tightness[word][:, None], rng)

    rows = np.empty((frames, per_frame, dim), np.float16)
    frame = draw(per_frame)
    for i in range(frames):
        if kind == "iid" or i % SCENE == 0:
            frame = draw(per_frame)
        else:
            frame = _near(frame, FRAME_TO_FRAME, rng)
            swapped = rng.random(per_frame) < SWAPPED
            frame[swapped] = draw(int(swapped.sum()))
        rows[i] = frame
    return rows.reshape(-1, dim), np.arange(0, (frames + 1) * per_frame, per_frame)


def _near(rows: Float64, cosine: float | Float64, rng: np.random.Generator) -> Float64:
    return _unit(cosine * rows + np.sqrt(1.0 - np.square(cosine)) * _unit(rng.normal(size=rows.shape)))


def _unit(rows: Float64) -> Float64:
    unit: Float64 = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit
