"""A GPU that is not there: cuda-bindings' driver module and TensorRT, as far as geal-edge asks them.

The GPU's memory is the host's. Work is begun, and done no sooner than somebody waits for it; between the beginning and the end
of a capture it is written down instead. A plan is the ONNX file itself with the largest batch before it, and ONNX Runtime
answers for it. A call from a thread that has no context, and a capture of a shape's first run, are refused as the real ones do.
"""

import ctypes
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from geal_edge.runtime.backends.driver import Driver

DRIVER = Driver(cuda=(12, 6), gpu="a GPU", compute_capability=(8, 7))
MAGIC = b"PLAN"
PRIMARY = -1
OK, INVALID_CONTEXT, FAILED = 0, 201, 719


class FakeDriver(ModuleType):
    """`cuda.bindings.driver`: each call answers a tuple, its error first.

    alive    what was made and not given back yet, by its number
    calls    names of calls, in their order
    copied   bytes of each copy that was begun or written down
    refuses  names of calls that fail
    """

    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_BLOCKING_SYNC=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self) -> None:
        super().__init__("driver")
        self.alive: dict[int, Any] = {}
        self.calls: list[str] = []
        self.copied: list[int] = []
        self.refuses: set[str] = set()
        self.written: list[Callable[[], object]] | None = None
        self._begun: list[Callable[[], object]] = []
        self._numbers = count(1)
        self._contexts: dict[int, int] = {}

    def begin(self, work: Callable[[], object]) -> None:
        (self._begun if self.written is None else self.written).append(work)

    def _answer(self, name: str, *values: Any) -> tuple[Any, ...]:
        self.calls.append(name)
        if name in self.refuses:
            return (FAILED, *(None for _ in values))
        return (OK, *values)

    def _made(self, name: str, what: Any) -> tuple[Any, ...]:
        if self._contexts.get(threading.get_ident()) is None:
            return INVALID_CONTEXT, None
        answer = self._answer(name, next(self._numbers))
        if answer[0] == OK:
            self.alive[answer[1]] = what
        return answer

    def _gone(self, name: str, number: int) -> tuple[Any, ...]:
        del self.alive[number]
        return self._answer(name)

    def cuInit(self, flags: int) -> tuple[Any, ...]:
        return self._answer("cuInit")

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return self._answer("cuDeviceGet", 0)

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:
        self.alive[PRIMARY] = self.alive.get(PRIMARY, 0) + 1
        return self._answer("cuDevicePrimaryCtxRetain", PRIMARY)

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[Any, ...]:
        self.alive[PRIMARY] -= 1
        if self.alive[PRIMARY]:
            return self._answer("cuDevicePrimaryCtxRelease")
        return self._gone("cuDevicePrimaryCtxRelease", PRIMARY)

    def cuCtxSetCurrent(self, context: int) -> tuple[Any, ...]:
        self._contexts[threading.get_ident()] = context
        return self._answer("cuCtxSetCurrent")

    def cuCtxGetStreamPriorityRange(self) -> tuple[Any, ...]:
        return self._answer("cuCtxGetStreamPriorityRange", 0, -5)

    def cuStreamCreateWithPriority(self, flags: int, priority: int) -> tuple[Any, ...]:
        return self._made("cuStreamCreateWithPriority", ("stream", flags, priority))

    def cuStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._gone("cuStreamDestroy", stream)

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        begun, self._begun = self._begun, []
        for work in begun:
            work()
        return self._answer("cuStreamSynchronize")

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:
        return self._made("cuEventCreate", "event")

    def cuEventDestroy(self, event: int) -> tuple[Any, ...]:
        return self._gone("cuEventDestroy", event)

    def cuEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        return self._answer("cuEventRecord")

    def cuEventSynchronize(self, event: int) -> tuple[Any, ...]:
        self.cuStreamSynchronize(0)
        return self._answer("cuEventSynchronize")

    def cuMemAlloc(self, size: int) -> tuple[Any, ...]:
        return self._memory("cuMemAlloc", size)

    def cuMemAllocHost(self, size: int) -> tuple[Any, ...]:
        return self._memory("cuMemAllocHost", size)

    def _memory(self, name: str, size: int) -> tuple[Any, ...]:
        memory = (ctypes.c_uint8 * size)()
        error, _ = self._made(name, None)
        if error:
            return error, None
        self.alive[ctypes.addressof(memory)] = memory
        del self.alive[max(number for number in self.alive if self.alive[number] is None)]
        return OK, ctypes.addressof(memory)

    def cuMemFree(self, pointer: int) -> tuple[Any, ...]:
        return self._gone("cuMemFree", pointer)

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._gone("cuMemFreeHost", address)

    def cuMemcpyHtoDAsync(self, device: int, host: int, size: int, stream: int) -> tuple[Any, ...]:
        return self._copy("cuMemcpyHtoDAsync", device, host, size)

    def cuMemcpyDtoHAsync(self, host: int, device: int, size: int, stream: int) -> tuple[Any, ...]:
        return self._copy("cuMemcpyDtoHAsync", host, device, size)

    def _copy(self, name: str, to: int, source: int, size: int) -> tuple[Any, ...]:
        self.copied.append(size)
        self.begin(lambda: ctypes.memmove(to, source, size))
        return self._answer(name)

    def cuStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        self.written = []
        return self._answer("cuStreamBeginCapture")

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        written, self.written = self.written, None
        return self._made("cuStreamEndCapture", written)

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        return self._made("cuGraphInstantiate", self.alive[graph])

    def cuGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        return self._gone("cuGraphDestroy", graph)

    def cuGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        return self._gone("cuGraphExecDestroy", executable)

    def cuGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:
        self._begun += self.alive[executable]
        return self._answer("cuGraphLaunch")


class _Logger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)

    def __init__(self) -> None:
        pass


class _Monitor:
    def __init__(self) -> None:
        pass


class FakeTensorRt(ModuleType):
    """`tensorrt`.

    objects       names of the objects that were made, in their order
    built         settings of each plan that was built
    capturable    whether a plan's work can be captured
    answers_nan   whether patch features come out as NaN
    """

    ILogger = _Logger
    IProgressMonitor = _Monitor
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    BuilderFlag = SimpleNamespace(TF32="tf32")
    HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="ampere_plus")
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    def __init__(self, driver: FakeDriver, version: str = "10.3.0") -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.driver = driver
        self.objects: list[str] = []
        self.built: list[SimpleNamespace] = []
        self.capturable = True
        self.answers_nan = False

    @staticmethod
    def nptype(kind: Any) -> Any:
        return kind

    def Builder(self, logger: Any) -> Any:
        self.objects.append("Builder")
        return _Builder(self)

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return _Parser(network)

    def Runtime(self, logger: Any) -> Any:
        self.objects.append("Runtime")
        return _Runtime(self, logger)


class _Builder:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt

    def create_network(self, flags: int) -> SimpleNamespace:
        return SimpleNamespace(onnx=b"")

    def create_builder_config(self) -> "_Config":
        return _Config()

    def create_optimization_profile(self) -> SimpleNamespace:
        profile = SimpleNamespace(shapes={})
        profile.set_shape = lambda name, *shapes: profile.shapes.update({name: shapes})
        return profile

    def build_serialized_network(self, network: Any, config: "_Config") -> bytes | None:
        config.progress_monitor.phase_start("Building", None, 1)
        if not config.progress_monitor.step_complete("Building", 0):
            return None
        self._trt.built.append(SimpleNamespace(**vars(config)))
        largest: int = config.profiles[0].shapes["image"][-1][0]
        return MAGIC + largest.to_bytes(1, "big") + bytes(network.onnx)


class _Config:
    def __init__(self) -> None:
        self.profiles: list[Any] = []
        self.hardware_compatibility_level: Any = None
        self.progress_monitor: Any = None
        self.workspace = 0
        self.timing = b""

    def set_memory_pool_limit(self, kind: str, size: int) -> None:
        self.workspace = size

    def clear_flag(self, flag: str) -> None:
        pass

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile)

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, data: bytes, ignore_mismatch: bool) -> None:
        self.timing = data

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: self.timing + b".")


class _Parser:
    num_errors = 0

    def __init__(self, network: Any) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.onnx = Path(path).read_bytes()
        return True


class _Runtime:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self._trt = trt
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> "_Engine | None":
        if not plan.startswith(MAGIC):
            self._logger.log(_Logger.ERROR, "magic tag does not match")
            return None
        return _Engine(self._trt, plan)


class _Engine:
    def __init__(self, trt: FakeTensorRt, plan: bytes) -> None:
        from geal_edge.runtime.backends.ort import onnxruntime

        self.trt = trt
        self.session = onnxruntime().InferenceSession(plan[len(MAGIC) + 1 :], providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.tensors = [*self.inputs.values(), *self.session.get_outputs()]
        self.num_io_tensors = len(self.tensors)

    def create_execution_context(self) -> "_Context":
        return _Context(self)

    def get_tensor_name(self, index: int) -> Any:
        return self.tensors[index].name

    def _tensor(self, name: str) -> Any:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_dtype(self, name: str) -> Any:
        return {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[self._tensor(name).type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(size, str) else size for size in self._tensor(name).shape)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._fresh = True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        self._fresh = True
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt = self._engine.trt
        if trt.driver.written is not None and (self._fresh or not trt.capturable):
            return False
        self._fresh = False
        shape = self._shapes["image"]
        trt.driver.begin(lambda: self._answer(shape))
        return True

    def _answer(self, shape: tuple[int, ...]) -> None:
        image = np.frombuffer(ctypes.string_at(self._addresses["image"], int(np.prod(shape))), np.uint8).reshape(shape)
        names = [node.name for node in self._engine.session.get_outputs()]
        for name, values in zip(names, self._engine.session.run(names, {"image": image}), strict=True):
            if self._engine.trt.answers_nan and name == "patch_features":
                values.fill(np.nan)
            ctypes.memmove(self._addresses[name], values.ctypes.data, values.nbytes)
