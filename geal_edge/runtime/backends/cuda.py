"""The few calls of the CUDA driver that a TensorRT plan's hot path makes, through cuda-bindings.

It is the driver's own interface, not that of the CUDA runtime: so any cuda-bindings serves any driver that has these calls,
and all of them are of CUDA 12. Each call answers with its error first; here that becomes a BackendError.
"""

import ctypes
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.errors import BackendError, MissingDependency


class Stream:
    """A stream of work on the first GPU, of the lowest priority: whatever else this process has on the GPU goes first. A context
    manager.

    Whoever enters it has asked `probe()` whether there is a driver. What it allocates lives until it is left: an array of
    pinned memory must not be looked at after that.
    """

    def __enter__(self) -> "Stream":
        self._cuda = cuda = cuda_bindings()
        _value(cuda.cuInit(0))
        device = _value(cuda.cuDeviceGet(0))
        # What is given back answers nothing that could be used: on a GPU that has failed all calls do, and the first was told.
        with ExitStack() as stack:
            self._context = _value(cuda.cuDevicePrimaryCtxRetain(device))  # the one that TensorRT uses
            stack.callback(cuda.cuDevicePrimaryCtxRelease, device)
            self.use()
            lowest, _ = _value(cuda.cuCtxGetStreamPriorityRange())
            self._stream = _value(
                cuda.cuStreamCreateWithPriority(int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING), int(lowest))
            )
            stack.callback(cuda.cuStreamDestroy, self._stream)
            # A thread that waits for such an event sleeps; one that waits for a stream spins, and takes a CPU from the vehicle.
            self._done = _value(cuda.cuEventCreate(int(cuda.CUevent_flags.CU_EVENT_BLOCKING_SYNC)))
            stack.callback(cuda.cuEventDestroy, self._done)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cuda.cuCtxSetCurrent(self._context)
        self._cuda.cuStreamSynchronize(self._stream)  # what still runs writes into the memory that is freed now
        self._stack.close()

    @property
    def handle(self) -> int:
        return int(self._stream)

    def use(self) -> None:
        """Make the GPU's context that of the calling thread: each thread has its own, and a run is not entered where it runs."""
        _value(self._cuda.cuCtxSetCurrent(self._context))

    def device_memory(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        pointer = _value(self._cuda.cuMemAlloc(size))
        self._stack.callback(self._cuda.cuMemFree, pointer)
        return int(pointer)

    def pinned_memory(self, size: int) -> npt.NDArray[np.uint8]:
        """(size,) uint8 on the host that the GPU copies from and to by itself."""
        address = int(_value(self._cuda.cuMemAllocHost(size)))
        self._stack.callback(self._cuda.cuMemFreeHost, address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def copy_in(self, device: int, host: npt.NDArray[Any]) -> None:
        """Begin to copy all of a pinned array to the GPU."""
        _value(self._cuda.cuMemcpyHtoDAsync(device, host.ctypes.data, host.nbytes, self._stream))

    def copy_out(self, host: npt.NDArray[Any], device: int) -> None:
        """Begin to fill a pinned array from the GPU."""
        _value(self._cuda.cuMemcpyDtoHAsync(host.ctypes.data, device, host.nbytes, self._stream))

    def wait(self) -> None:
        """Until all that was begun is done."""
        _value(self._cuda.cuEventRecord(self._done, self._stream))
        _value(self._cuda.cuEventSynchronize(self._done))

    def begin_capture(self) -> None:
        """From here to `end_capture` what is begun is written down instead of done; other threads are not held up."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _value(self._cuda.cuStreamBeginCapture(self._stream, mode))

    def end_capture(self) -> "Graph":
        """What was written down, to be launched as one. Raises BackendError where it cannot be."""
        written = _value(self._cuda.cuStreamEndCapture(self._stream))
        try:
            return Graph(self._cuda, _value(self._cuda.cuGraphInstantiate(written, 0)), self._stream)
        finally:
            self._cuda.cuGraphDestroy(written)


class Graph:
    """A captured stretch of work: one call begins all of it."""

    def __init__(self, cuda: Any, executable: Any, stream: Any) -> None:
        self._cuda = cuda
        self._executable = executable
        self._stream = stream

    def launch(self) -> None:
        _value(self._cuda.cuGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        self._cuda.cuGraphExecDestroy(self._executable)


def cuda_bindings() -> Any:
    """cuda-bindings' module of the driver. Raises MissingDependency."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise MissingDependency(
            "cuda-bindings is not installed, and TensorRT plans need it. Install it with: pip install 'cuda-bindings>=12.9' "
            "(the extras tensorrt, rtx and jetpack6 of geal-edge bring it)"
        ) from error
    return driver


def _value(answer: Any) -> Any:
    """What a call answered, without the error before it: nothing, one value, or several. Raises BackendError."""
    error, *values = answer
    if int(error):
        raise BackendError(f"the GPU refused a call ({getattr(error, 'name', error)}). See what nvidia-smi says.")
    return values[0] if len(values) == 1 else values or None
