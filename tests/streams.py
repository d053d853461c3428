"""Streams of knowledge clusters for the selector's tests: dull, random and adversarial, all by seed."""

import numpy as np

from geal_edge.runtime.clusters import KnowledgeClusters, unit_rows


def unit(rows: np.ndarray) -> KnowledgeClusters:
    return KnowledgeClusters(rows=rows, patch_cluster=np.arange(len(rows), dtype=np.int16))


def random_stream(seed: int, count: int, dim: int = 6, most: int = 4) -> list[KnowledgeClusters]:
    rng = np.random.default_rng(seed)
    return [unit(unit_rows(rng.normal(size=(rng.integers(1, most + 1), dim)))) for _ in range(count)]


def drive_stream(seed: int, count: int, dim: int = 16, most: int = 4) -> list[KnowledgeClusters]:
    """Scenes that last, frames that hardly differ, now and then a new object."""
    rng = np.random.default_rng(seed)
    frames, scene = [], rng.normal(size=(most, dim))
    for i in range(count):
        if i % 15 == 14:
            scene = rng.normal(size=(most, dim)) + 2 * rng.normal(size=dim)
        scene = scene + 0.03 * rng.normal(size=scene.shape)
        frames.append(unit(unit_rows(scene[: rng.integers(1, most + 1)])))
    return frames


def adversarial_stream(seed: int, count: int, dim: int = 4) -> list[KnowledgeClusters]:
    """Opposite corners, exact copies, and steps just inside and outside of the ladder's radii."""
    rng = np.random.default_rng(seed)
    corners = np.concatenate([np.eye(dim), -np.eye(dim)])
    frames: list[KnowledgeClusters] = []
    for _ in range(count):
        kind = rng.integers(4)
        if kind == 0 and frames:
            frames.append(frames[rng.integers(len(frames))])
        elif kind == 1:
            frames.append(unit(unit_rows(corners[rng.choice(2 * dim, 2, replace=False)])))
        else:
            angle = rng.choice([0.2, 0.202, 0.5, 1.0, 1.4, 1.5]) * rng.choice([0.999, 1.0, 1.001])
            row = np.cos(angle) * corners[rng.integers(2 * dim)] + np.sin(angle) * corners[rng.integers(2 * dim)]
            frames.append(unit(unit_rows(row[None] + 1e-3 * rng.normal(size=(1, dim)))))
    return frames


STREAMS = {"random": random_stream, "drive": drive_stream, "adversarial": adversarial_stream}
