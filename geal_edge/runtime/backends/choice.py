"""Which engine a command runs a bundle on, by name."""

from pathlib import Path
from typing import Literal, TypeAlias

from geal_edge.runtime.backends import Backend
from geal_edge.runtime.backends.openvino import OpenVino
from geal_edge.runtime.backends.ort import OrtCpu

BackendName: TypeAlias = Literal["ort-cpu", "openvino", "openvino-bf16", "openvino-f16"]


def open_backend(name: BackendName, graph: Path, *, threads: int | None = None) -> Backend:
    """The engine of that name, to be entered: what is asked for is what runs, or entering raises BackendError."""
    match name:
        case "ort-cpu":
            return OrtCpu(graph, threads=threads)
        case "openvino":
            return OpenVino(graph, threads=threads)
        case "openvino-bf16":
            return OpenVino(graph, hint="bf16", threads=threads)
        case "openvino-f16":
            return OpenVino(graph, hint="f16", threads=threads)
