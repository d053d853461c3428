"""What runs a graph. One contract for every engine: enter, inputs and outputs, dict of arrays in, dict of arrays out.

The base checks names, dtypes and shapes once for all engines, in both directions; an engine only starts, infers and stops.
What is asked for is what runs: an engine that would silently become another one is an error.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import BackendError

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """dtype and shape of an input or output; a string in the shape is a symbol (the batch), equal wherever it stands."""

    dtype: "np.dtype[Any]"
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name} [{', '.join(map(str, self.shape))}]"


class Backend(ABC):
    """An engine with one graph loaded. Use it as a context manager.

    inputs, outputs  name -> TensorSpec, known once entered
    last_s           seconds that the last `run` spent in the engine
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    last_s: float = 0.0

    def run(self, feeds: Arrays) -> Arrays:
        """Answer one batch. The arrays returned are the engine's buffers: valid until the next `run`.

        Raises BackendError where a name, dtype or shape is not what the graph promises, on either side.
        """
        symbols: dict[str, int] = {}
        _check(f"{self.name}: input", self.inputs, feeds, symbols)
        began = time.perf_counter()
        answer = self._infer(feeds)
        self.last_s = time.perf_counter() - began
        _check(f"{self.name}: output", self.outputs, answer, symbols)
        return answer

    def __enter__(self) -> "Backend":
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @abstractmethod
    def _start(self) -> None:
        """Load the graph and fill `inputs` and `outputs`; raise BackendError where that cannot be done."""

    @abstractmethod
    def _infer(self, feeds: Arrays) -> Arrays:
        """Answer checked feeds."""

    @abstractmethod
    def _stop(self) -> None:
        """Free what `_start` took."""


def _check(what: str, specs: Mapping[str, TensorSpec], arrays: Arrays, symbols: dict[str, int]) -> None:
    if arrays.keys() != specs.keys():
        raise BackendError(f"{what}s are {sorted(arrays)}, the graph has {sorted(specs)}.")
    for name, spec in specs.items():
        array = arrays[name]
        sizes = [
            symbols.setdefault(size, found) if isinstance(size, str) else size
            for size, found in zip(spec.shape, array.shape, strict=False)
        ]
        if array.dtype != spec.dtype or len(array.shape) != len(spec.shape) or list(array.shape) != sizes:
            raise BackendError(f"{what} {name!r} is {array.dtype.name} {list(array.shape)}, expected {spec}.")
