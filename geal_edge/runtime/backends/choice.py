"""Which engine a command runs a bundle on, by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from geal_edge.runtime.backends import Backend
from geal_edge.runtime.backends.openvino import OpenVino
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.backends.ortgpu import OrtCuda, OrtTensorRt
from geal_edge.runtime.backends.tensorrt import TensorRt
from geal_edge.runtime.parity import Inside

BackendName: TypeAlias = Literal[
    "ort-cpu", "ort-cuda", "ort-tensorrt", "tensorrt", "openvino", "openvino-bf16", "openvino-f16", "openvino-gpu"
]
BackendOrAuto: TypeAlias = Literal["auto", BackendName]
Open: TypeAlias = Callable[[BackendName], Backend]
"""Gives the backend of a name, to be entered."""

INSIDE: dict[BackendName, Inside] = {"openvino-bf16": "bf16", "openvino-f16": "fp16", "openvino-gpu": "fp16"}
"""What an engine computes in, where that may be less than what the graph says."""


def open_backend(name: BackendName, graph: Path, *, cache: Path, threads: int | None = None) -> Backend:
    """The engine of that name, to be entered: what is asked for is what runs, or entering raises BackendError.

    cache  the bundle's folder in the state (state.py), for engines that compile what they run, or run what was compiled
    """
    match name:
        case "ort-cpu":
            return OrtCpu(graph, threads=threads)
        case "ort-cuda":
            return OrtCuda(graph, threads=threads)
        case "ort-tensorrt":
            return OrtTensorRt(graph, threads=threads, cache=cache)
        case "tensorrt":
            return TensorRt(graph, cache=cache)
        case "openvino":
            return OpenVino(graph, threads=threads)
        case "openvino-bf16":
            return OpenVino(graph, hint="bf16", threads=threads)
        case "openvino-f16":
            return OpenVino(graph, hint="f16", threads=threads)
        case "openvino-gpu":
            return OpenVino(graph, hint="f16", device="GPU")
