"""Is there an NVIDIA driver, and which GPUs does it have? Asked through libcuda itself, before anything of CUDA is touched.

TensorRT's objects end the process where there is no driver, and ONNX Runtime falls back to the CPU: so this decides first.
"""

import ctypes
from dataclasses import dataclass

from geal_edge.errors import BackendError

LIBRARY = "libcuda.so.1"
_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A driver that answers.

    cuda                the newest CUDA that it runs, (major, minor)
    gpu                 the first GPU's name
    compute_capability  its (major, minor)
    """

    cuda: tuple[int, int]
    gpu: str
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        (major, minor), (cuda, cuda_minor) = self.compute_capability, self.cuda
        return f"{self.gpu} (compute capability {major}.{minor}, driver for CUDA {cuda}.{cuda_minor})"


def probe(library: str = LIBRARY) -> Driver:
    """The driver, and its first GPU. Raises BackendError, with what to do, where there is none."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise BackendError(
            f"there is no NVIDIA driver on this machine ({library}: {error}). Install the driver (in a container: start it "
            "with the GPU passed in), or choose a backend for the CPU."
        ) from error
    if code := cuda.cuInit(0):
        raise BackendError(
            f"the NVIDIA driver does not start (cuInit says {code}). See what nvidia-smi says; after an update of the driver "
            "the machine must be restarted."
        )
    count, version, device = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise BackendError(
            "the NVIDIA driver shows no GPU to this process. Check CUDA_VISIBLE_DEVICES, and what nvidia-smi lists."
        )
    name = ctypes.create_string_buffer(256)
    capability = [ctypes.c_int(0), ctypes.c_int(0)]
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    for value, attribute in zip(capability, _COMPUTE_CAPABILITY, strict=True):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return Driver(
        cuda=(version.value // 1000, version.value % 1000 // 10),
        gpu=name.value.decode(errors="replace"),
        compute_capability=(capability[0].value, capability[1].value),
    )


def require_cuda(driver: Driver, built_for: str | None, what: str) -> None:
    """Raise BackendError where `what` was built for a newer CUDA than the driver runs.

    built_for  such as "13.0"; None where it does not say
    """
    if built_for is None or int(built_for.split(".")[0]) <= driver.cuda[0]:
        return
    wanted, has = built_for.split(".")[0], driver.cuda[0]
    raise BackendError(
        f"{what} is built for CUDA {wanted}, this driver runs CUDA {has} at most. Update the NVIDIA driver to one for CUDA "
        f"{wanted}, or install a version that is built for CUDA {has}."
    )
