"""A native TensorRT plan on an NVIDIA GPU: what `geal-edge build` made for this machine, and nothing else.

    driver? -> plan that fits, by its JSON -> TensorRT's objects -> buffers, once
    frames -> pinned memory -> GPU -> plan -> GPU -> pinned memory        [from the third time on as one CUDA graph]

TensorRT's objects end the process where there is no driver, and take a plan of another GPU in their own way. So the driver is
asked first, and a plan is given to them only where its JSON says that it is for this TensorRT, GPU and graph.
"""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.errors import BackendError, MissingDependency
from geal_edge.models.bundle import file_digest
from geal_edge.runtime.backends import Arrays, Backend, TensorSpec
from geal_edge.runtime.backends.cuda import Graph, Stream
from geal_edge.runtime.backends.driver import Driver, probe
from geal_edge.runtime.plan import PlanFacts, find_plan


class TensorRt(Backend):
    """A plan of a bundle's graph.

    graph  the bundle's ONNX file, of which the plan must have been built
    cache  the bundle's folder in the state, where `geal-edge build` leaves plans
    """

    name = "tensorrt"

    def __init__(self, graph: Path, *, cache: Path) -> None:
        self._graph_file = graph
        self._cache = cache
        self._captured: Graph | None = None

    def _start(self) -> None:
        driver = probe()
        trt = tensorrt_module()
        plan, facts = find_plan(
            self._cache, facts_here(trt, driver, self._graph_file), build=f"geal-edge build {self._graph_file.parent}"
        )
        with ExitStack() as stack:
            self._stream = stack.enter_context(Stream())
            stack.callback(self._release)
            self._log = Log(trt)
            what = f"{self._cache / facts.file}: TensorRT cannot load this plan"
            self._runtime = self._log.made(trt.Runtime(self._log.logger), what)
            self._engine = self._log.made(self._runtime.deserialize_cuda_engine(plan), what)
            self._context = self._log.made(self._engine.create_execution_context(), what)
            tensors = [_tensor(trt, self._engine, i) for i in range(self._engine.num_io_tensors)]
            self.inputs = {tensor.name: tensor.spec for tensor in tensors if tensor.is_input}
            self.outputs = {tensor.name: tensor.spec for tensor in tensors if not tensor.is_input}
            self._buffers = {tensor.name: _Buffer.of(self._stream, tensor.spec, facts.max_batch) for tensor in tensors}
            for name, buffer in self._buffers.items():
                if not self._context.set_tensor_address(name, buffer.device):
                    raise BackendError(f"{what}: it does not take memory for {name!r}.")
            self._max_batch = facts.max_batch
            self._batch: int | None = None
            self._capture_next = False
            self._stack = stack.pop_all()

    def _infer(self, feeds: Arrays) -> Arrays:
        batch = len(next(iter(feeds.values())))
        if batch > self._max_batch:
            raise BackendError(
                f"{self.name}: {batch} frames at once, this plan takes {self._max_batch} at most. Build one that takes more: "
                f"geal-edge build {self._graph_file.parent} --max-batch {batch}"
            )
        self._stream.use()
        for name, array in feeds.items():
            np.copyto(self._buffers[name].of_batch(batch), array)
        if batch != self._batch:
            self._begin_batch(batch)
        elif self._capture_next:
            self._capture_next = False
            self._capture(batch)
        if self._captured is not None:
            self._captured.launch()
        else:
            self._enqueue(batch)
        self._stream.wait()
        return {name: self._buffers[name].of_batch(batch) for name in self.outputs}

    def _begin_batch(self, batch: int) -> None:
        """Another number of frames than the last time. A captured graph holds for one number alone."""
        self._release_capture()
        for name, spec in self.inputs.items():
            if not self._context.set_input_shape(name, _shape(spec, batch)):
                raise BackendError(f"{self.name}: the plan does not take {name!r} as {list(_shape(spec, batch))}.")
        self._batch = batch
        # TensorRT prepares itself in the first run of a shape, which therefore cannot be captured.
        self._capture_next = True

    def _enqueue(self, batch: int) -> None:
        """Frames in, plan, answers out: only what this batch fills is copied."""
        for name in self.inputs:
            self._stream.copy_in(self._buffers[name].device, self._buffers[name].of_batch(batch))
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(f"{self.name}: TensorRT failed on a frame. See what nvidia-smi says.")
        for name in self.outputs:
            self._stream.copy_out(self._buffers[name].of_batch(batch), self._buffers[name].device)

    def _capture(self, batch: int) -> None:
        """Write down what a run of this batch does. What cannot be written down is begun piece by piece, as before."""
        self._stream.begin_capture()
        try:
            self._enqueue(batch)
        except BackendError:
            with suppress(BackendError):
                self._stream.end_capture().close()
            return
        with suppress(BackendError):
            self._captured = self._stream.end_capture()

    def _release_capture(self) -> None:
        if self._captured is not None:
            self._captured.close()
        self._captured = None

    def _stop(self) -> None:
        self._stack.close()

    def _release(self) -> None:
        """TensorRT's objects go in this order, and before the stream and the memory that they know."""
        self._release_capture()
        self._context = self._engine = self._runtime = None


def tensorrt_module(*, with_gpu: bool = True) -> Any:
    """TensorRT where there is a GPU, else or without it TensorRT-RTX. Raises MissingDependency.

    One alias serves TensorRT 10.3 to 11 and TensorRT-RTX: only calls that all of them have are used.
    """
    if with_gpu:
        try:
            import tensorrt
        except ImportError:
            pass
        else:
            return tensorrt
    try:
        import tensorrt_rtx
    except ImportError as error:
        package = "'geal-edge[tensorrt]', or pip install 'geal-edge[rtx]'" if with_gpu else "'geal-edge[rtx]'"
        raise MissingDependency(
            f"TensorRT is not installed, and plans need it. Install it with: pip install {package}"
        ) from error
    return tensorrt_rtx


def facts_here(trt: Any, driver: Driver, graph: Path) -> PlanFacts:
    """What a plan of this graph must be for, to run here; any batch."""
    return PlanFacts(
        module=trt.__name__,
        version=trt.__version__,
        gpu=driver.gpu,
        compute_capability=".".join(map(str, driver.compute_capability)),
        graph=file_digest(graph),
        max_batch=1,
    )


class Log:
    """What TensorRT calls errors. Its objects are None where they could not be made, and the reason goes to the logger alone."""

    def __init__(self, trt: Any) -> None:
        said: list[str] = []

        class Collecting(trt.ILogger):  # type: ignore[misc]  # TensorRT has no types
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    said.append(message)

        self.said = said
        self.logger = Collecting()
        """Must outlive all objects that it was given to."""

    def made(self, made: Any, what: str) -> Any:
        """An object of TensorRT, if it is one. Raises BackendError: `what`, and why."""
        if made is None:
            raise BackendError(f"{what}: {'; '.join(self.said) or 'it does not say why'}")
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    name: str
    is_input: bool
    spec: TensorSpec


def _tensor(trt: Any, engine: Any, index: int) -> _Tensor:
    name = engine.get_tensor_name(index)
    kind = engine.get_tensor_dtype(name)
    try:
        dtype = np.dtype(trt.nptype(kind))
    except TypeError as error:  # bfloat16 and below, which NumPy has not
        raise BackendError(f"tensor {name!r} is of type {kind}, which no geal-edge graph has.") from error
    shape = tuple("N" if size == -1 else int(size) for size in engine.get_tensor_shape(name))
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    return _Tensor(name=name, is_input=is_input, spec=TensorSpec(dtype=dtype, shape=shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buffer:
    """One tensor's memory, on the GPU and on the host, for the largest batch."""

    device: int
    host: npt.NDArray[Any]

    @classmethod
    def of(cls, stream: Stream, spec: TensorSpec, max_batch: int) -> "_Buffer":
        shape = _shape(spec, max_batch)
        size = int(np.prod(shape)) * spec.dtype.itemsize
        return cls(device=stream.device_memory(size), host=stream.pinned_memory(size).view(spec.dtype).reshape(shape))

    def of_batch(self, batch: int) -> npt.NDArray[Any]:
        return self.host[:batch]


def _shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    return tuple(batch if isinstance(size, str) else size for size in spec.shape)
