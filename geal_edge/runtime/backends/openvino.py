"""OpenVINO on a CPU or Intel's GPU: an engine for ONNX graphs, with the numbers inside in float32, bfloat16 or float16."""

import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from geal_edge.errors import BackendError, MissingDependency
from geal_edge.runtime.backends import Arrays, Backend, TensorSpec

Hint: TypeAlias = Literal["f32", "bf16", "f16"]
Device: TypeAlias = Literal["CPU", "GPU"]

_DTYPES = {"u8": np.uint8, "f32": np.float32, "i32": np.int32, "i64": np.int64}
_CAPABILITIES = {"bf16": "BF16", "f16": "FP16"}


class OpenVino(Backend):
    """OpenVINO's plugin for a device.

    graph    an ONNX file
    hint     what the numbers inside are: "f32" everywhere, "bf16" and "f16" where the device computes in them
    device   "CPU", or "GPU": Intel's, the first that there is
    threads  worker threads inside one inference on a CPU; None = one per CPU that this process may use
    """

    def __init__(self, graph: Path, *, hint: Hint = "f32", device: Device = "CPU", threads: int | None = None) -> None:
        self.name = "openvino-gpu" if device == "GPU" else "openvino" if hint == "f32" else f"openvino-{hint}"
        self._graph = graph
        self._hint = hint
        self._device = device
        self._threads = threads if threads is not None else len(os.sched_getaffinity(0))

    def _start(self) -> None:
        openvino = _openvino()
        core = openvino.Core()
        if self._device == "GPU" and not any(name.startswith("GPU") for name in core.available_devices):
            raise BackendError(
                f"{self.name}: OpenVINO finds no Intel GPU here (it has {', '.join(core.available_devices)}). Install Intel's "
                "compute runtime (the package intel-opencl-icd) and put this user into the group render, or choose --backend "
                "openvino."
            )
        able = core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        if self._hint != "f32" and _CAPABILITIES[self._hint] not in able:
            # OpenVINO would take the hint and compute in float32.
            raise BackendError(
                f"{self.name}: this processor does not compute in {self._hint} (it has {', '.join(sorted(able))}). "
                "Choose --backend openvino, which is f32."
            )
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self._hint, "NUM_STREAMS": 1}
        if self._device == "CPU":
            # Pinned threads fight with the other software of a vehicle for their core.
            settings |= {"INFERENCE_NUM_THREADS": self._threads, "ENABLE_CPU_PINNING": False}
        try:
            model = core.read_model(str(self._graph))
            compiled = core.compile_model(model, self._device, settings)
        except RuntimeError as error:
            raise BackendError(f"{self._graph}: OpenVINO cannot load this graph ({error}).") from error
        took = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if took != self._hint:
            raise BackendError(f"{self.name}: OpenVINO runs {took} where {self._hint} was asked for.")
        batch = _batch_symbol(self._graph, model)
        self.inputs = {port.get_any_name(): _spec(port, batch) for port in compiled.inputs}
        # By the model's own names: a compiled output also has the names of what was optimised away behind it.
        names = [port.get_any_name() for port in model.outputs]
        self.outputs = {name: _spec(port, batch) for name, port in zip(names, compiled.outputs, strict=True)}
        self._request = compiled.create_infer_request()

    def _infer(self, feeds: Arrays) -> Arrays:
        try:
            self._request.infer(feeds, share_inputs=True)
        except RuntimeError as error:
            raise BackendError(f"{self._graph}: OpenVINO failed on a frame ({error}).") from error
        return {name: self._request.get_tensor(name).data for name in self.outputs}

    def _stop(self) -> None:
        del self._request


def _openvino() -> Any:
    # Importing OpenVINO reports it to its makers by default, and leaves a folder in the user's home; without the package that
    # does so, it takes a stub of its own.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: cannot be imported
    try:
        import openvino
    except ImportError as error:
        raise MissingDependency(
            "OpenVINO is not installed, and this backend needs it. Install it with: pip install 'geal-edge[openvino]'"
        ) from error
    return openvino


def _batch_symbol(graph: Path, model: Any) -> str:
    """The one size that our graphs leave open. OpenVINO forgets its name, and the manifest calls it N."""
    open_sizes = [size for port in model.inputs for size in port.get_partial_shape() if size.is_dynamic]
    if len(open_sizes) > 1:
        raise BackendError(f"{graph}: {len(open_sizes)} sizes of its inputs are open, expected the batch alone.")
    return "N"


def _spec(port: Any, batch: str) -> TensorSpec:
    kind = port.get_element_type().get_type_name()
    if kind not in _DTYPES:
        raise BackendError(f"tensor {port.get_any_name()!r} is of type {kind}, which no geal-edge graph has.")
    shape = tuple(batch if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return TensorSpec(dtype=np.dtype(_DTYPES[kind]), shape=shape)
