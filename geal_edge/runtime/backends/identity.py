"""Which engine on which device: what a verification holds for. Told without starting anything."""

import platform
from dataclasses import dataclass
from pathlib import Path

from geal_edge.errors import MissingDependency
from geal_edge.runtime.backends.choice import BackendName
from geal_edge.runtime.backends.driver import probe
from geal_edge.runtime.backends.installed import installed_version

DISTRIBUTIONS: dict[BackendName, tuple[str, ...]] = {
    "ort-cpu": ("onnxruntime", "onnxruntime-gpu"),
    "ort-cuda": ("onnxruntime-gpu",),
    "ort-tensorrt": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx"),
    "openvino": ("openvino",),
    "openvino-bf16": ("openvino",),
    "openvino-f16": ("openvino",),
    "openvino-gpu": ("openvino",),
}
"""Packages of which one must be there."""
EXTRAS: dict[str, str] = {
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "gpu",
    "tensorrt": "tensorrt",
    "openvino": "openvino",
}
ON_GPU: tuple[BackendName, ...] = ("ort-cuda", "ort-tensorrt", "tensorrt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """engine: packages and their versions; device: the processor or GPU, with its driver."""

    engine: str
    device: str


def identity(name: BackendName) -> Identity:
    """What a backend of that name would be here and now. Raises MissingDependency or BackendError where it cannot run."""
    found = [f"{package} {its}" for package in DISTRIBUTIONS[name] if (its := installed_version(package)) is not None]
    if not found:
        package = DISTRIBUTIONS[name][0]
        instead = " (it takes the place of onnxruntime: uninstall that first)" if package == "onnxruntime-gpu" else ""
        raise MissingDependency(
            f"{name}: {package} is not installed. Install it with: pip install 'geal-edge[{EXTRAS[package]}]'{instead}"
        )
    if name == "tensorrt":
        del found[1:]  # names of one and the same; TensorRT-RTX, the last, runs where there is no other
    return Identity(engine=", ".join(found), device=str(probe()) if name in ON_GPU else processor())


def processor(cpuinfo: Path = Path("/proc/cpuinfo"), board: Path = Path("/proc/device-tree/model")) -> str:
    """The processor's model as the kernel names it, else the board's, else the architecture."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if board.is_file():
        return board.read_text(errors="replace").strip("\0\n ")
    return platform.machine()
