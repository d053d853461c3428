"""ONNX Runtime on the CPU, set up for a box whose other software must not notice it."""

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geal_edge.errors import BackendError, missing_library
from geal_edge.runtime.backends import Arrays, Backend, TensorSpec

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


class OrtCpu(Backend):
    """ONNX Runtime's CPU provider.

    graph    an ONNX file
    threads  worker threads inside one inference; None = one per CPU that this process may use. Spinning is off: idle
             threads that spin cost about twice the CPU time per frame at a few frames a second.
    """

    name = "ort-cpu"
    _FELL_BACK = "Install it again with: pip install 'geal-edge[cpu]';"

    def __init__(self, graph: Path, *, threads: int | None = None) -> None:
        self._graph = graph
        self._threads = threads if threads is not None else len(os.sched_getaffinity(0))
        self._bound: dict[int, _Bound] = {}

    def _start(self) -> None:
        ort = onnxruntime()
        providers = self._providers(ort)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a provider that is not there: the sentence below says so
                # Left to itself, ONNX Runtime prints to stdout that a provider failed, and goes on without it.
                session = ort.InferenceSession(str(self._graph), options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class but Exception
            raise BackendError(f"{self._graph}: ONNX Runtime cannot load this graph ({error}).") from error
        (asked, *_), (took, *_) = providers, session.get_providers()
        if took != asked[0]:
            raise BackendError(
                f"{self.name}: ONNX Runtime fell back from {asked[0]} to {took}. {self._FELL_BACK} or choose --backend ort-cpu."
            )
        self._session = session
        self.inputs = {node.name: _spec(node) for node in self._session.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in self._session.get_outputs()}

    def _providers(self, ort: Any) -> list[tuple[str, dict[str, str]]]:
        """What the session is asked for, with options: the first one must be the one that runs. Raises BackendError."""
        return [("CPUExecutionProvider", {})]

    def _infer(self, feeds: Arrays) -> Arrays:
        bound = self._bound_for(len(next(iter(feeds.values()))))
        for name, array in feeds.items():
            np.copyto(bound.inputs[name], array)
        try:
            self._session.run_with_iobinding(bound.binding)
        except Exception as error:
            raise BackendError(f"{self._graph}: ONNX Runtime failed on a frame ({error}).") from error
        return bound.outputs

    def _bound_for(self, batch: int) -> "_Bound":
        """Input and output buffers of one batch size, made and bound once."""
        if batch not in self._bound:
            binding = self._session.io_binding()
            inputs, outputs = (
                {name: _empty(spec, batch) for name, spec in s.items()} for s in (self.inputs, self.outputs)
            )
            for name, array in inputs.items():
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._bound[batch] = _Bound(inputs, outputs, binding)
        return self._bound[batch]

    def _stop(self) -> None:
        self._bound.clear()
        del self._session


class _Bound(NamedTuple):
    inputs: Arrays
    outputs: Arrays
    binding: Any


def _empty(spec: TensorSpec, batch: int) -> npt.NDArray[Any]:
    return np.empty([batch if isinstance(size, str) else size for size in spec.shape], spec.dtype)


def onnxruntime() -> Any:
    """The module. Raises MissingDependency."""
    # Its wheels report usage by default since 1.29; the switch is read when the library loads.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as module
    except ImportError as error:
        raise missing_library("The CPU backend runs on ONNX Runtime", "ONNX Runtime", error) from error
    return module


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise BackendError(f"tensor {node.name!r} is of type {node.type}, which no geal-edge graph has.")
    return TensorSpec(dtype=np.dtype(_DTYPES[node.type]), shape=tuple(node.shape))
