"""What ONNX Runtime answers to a graph that is still in memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.models.bundle import GRAPH_FILE
from geal_edge.runtime.backends.ort import OrtCpu


def answer_each(
    graph: bytes, frames: npt.NDArray[np.uint8], batch: int | None = None
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """ONNX Runtime's answer to each frame, without the batch's dimension; scalars as they are.

    graph   a file's bytes, as they will lie in the bundle
    frames  (n, H, W, 3) uint8 at the input size
    batch   the graph's own, or None for any
    """
    step = batch or 1
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / GRAPH_FILE
        path.write_bytes(graph)
        with OrtCpu(path) as backend:
            for begin in range(0, len(frames), step):
                group = frames[begin : begin + step]
                padded = np.concatenate([group, np.repeat(group[-1:], step - len(group), axis=0)])
                answer = backend.run({"image": padded})
                for i in range(len(group)):
                    yield {name: (values[i] if values.ndim else values).copy() for name, values in answer.items()}


def answers(graph: bytes, frames: npt.NDArray[np.uint8], batch: int | None = None) -> dict[str, npt.NDArray[Any]]:
    """The answers to all frames, stacked."""
    each = list(answer_each(graph, frames, batch))
    return {name: np.stack([answer[name] for answer in each]) for name in each[0]}
