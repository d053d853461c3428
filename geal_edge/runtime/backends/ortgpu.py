"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, and its TensorRT provider with engines that it builds and caches.

Frames go in from and answers come out to host buffers that are bound once (ort.py). Whether the GPU can be used is asked
before ONNX Runtime is: left to itself it runs on the CPU and says so on stderr alone.
"""

import hashlib
from pathlib import Path
from typing import Any

from geal_edge.errors import BackendError
from geal_edge.runtime import durable
from geal_edge.runtime.backends.driver import Driver, probe, require_cuda
from geal_edge.runtime.backends.installed import installed_version
from geal_edge.runtime.backends.ort import OrtCpu

_AGAIN = "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'geal-edge[gpu]'"


class OrtCuda(OrtCpu):
    """ONNX Runtime's CUDA provider, with float32 products in float32 (TF32 off)."""

    name = "ort-cuda"
    _PROVIDER = "CUDAExecutionProvider"
    _FELL_BACK = (
        "Its libraries of CUDA or cuDNN could not be loaded: install them with pip install 'geal-edge[gpu]' (the reason stands "
        "on stderr),"
    )

    def _providers(self, ort: Any) -> list[tuple[str, dict[str, str]]]:
        require_one_wheel()
        driver = self._require_gpu(ort)
        return [*self._more_providers(ort, driver), ("CUDAExecutionProvider", {"use_tf32": "0"})]

    def _require_gpu(self, ort: Any) -> Driver:
        """Raise BackendError where this ONNX Runtime has no such provider, or the machine no GPU for it."""
        if self._PROVIDER not in ort.get_available_providers():
            raise BackendError(
                f"{self.name}: this ONNX Runtime ({ort.__version__}) is built without {self._PROVIDER}. "
                f"Install the one for NVIDIA GPUs instead: {_AGAIN}"
            )
        driver = probe()
        require_cuda(driver, getattr(ort, "cuda_version", None) or None, f"ONNX Runtime {ort.__version__}")
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN of pip packages lie where the loader does not look
        return driver

    def _more_providers(self, ort: Any, driver: Driver) -> list[tuple[str, dict[str, str]]]:
        return []


class OrtTensorRt(OrtCuda):
    """ONNX Runtime's TensorRT provider; what TensorRT cannot take goes to CUDA.

    cache  the bundle's folder in the state: engines are built at the first start, which takes minutes, and found at later ones
    """

    name = "ort-tensorrt"
    _PROVIDER = "TensorrtExecutionProvider"
    _FELL_BACK = (
        "Its libraries of TensorRT could not be loaded: ONNX Runtime wants TensorRT 10 (libnvinfer.so.10) where the loader "
        "finds it (the reason stands on stderr),"
    )

    def __init__(self, graph: Path, *, cache: Path, threads: int | None = None) -> None:
        super().__init__(graph, threads=threads)
        self._cache = cache

    def _more_providers(self, ort: Any, driver: Driver) -> list[tuple[str, dict[str, str]]]:
        # One folder for each version and GPU: what another one built must not even be found.
        key = hashlib.sha256(f"{ort.__version__} {driver}".encode()).hexdigest()[:8]
        folder = self._cache / f"{self.name}-{key}"
        durable.make_folder(folder)
        options = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
        return [(self._PROVIDER, options)]


def require_one_wheel() -> None:
    """Raise BackendError where both of ONNX Runtime's packages are installed: they overwrite each other's files."""
    found = [f"{name} {its}" for name in ("onnxruntime", "onnxruntime-gpu") if (its := installed_version(name))]
    if len(found) > 1:
        raise BackendError(
            f"both {' and '.join(found)} are installed, and each overwrites files of the other: which one runs is a matter of "
            f"chance. Leave one: {_AGAIN}"
        )
