"""A bundle's graph becomes a TensorRT plan, on the machine that will run it: `geal-edge build`.

One alias serves TensorRT 10.3 to 11 and TensorRT-RTX: only calls that all of them have are used. What the numbers inside are
stands in the graph (strongly typed), never in a flag. Without a driver nothing of TensorRT is made, since its objects end the
process then; TensorRT-RTX alone builds with no GPU, for a compute capability that is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geal_edge.errors import BackendError, Interrupted, MissingDependency, UsageError
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import durable
from geal_edge.runtime.backends.driver import Driver, probe
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.plan import PlanFacts, why_not, write_plan
from geal_edge.runtime.state import State
from geal_edge.runtime.stopping import Stop

WORKSPACE_MIB = 1024
"""Scratch memory that the build may plan with; on a Jetson at most a quarter of what is free, which the vehicle shares."""
_JETSON = Path("/etc/nv_tegra_release")
_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """why: why the plan had to be built; None where the one that was there fits, and was left."""

    path: Path
    facts: PlanFacts
    why: str | None


def build(
    bundle: Bundle,
    state: State,
    *,
    max_batch: int = 1,
    workspace_mib: int | None = None,
    compute_capability: str | None = None,
    watch: Observer,
    stop: Stop,
) -> Built:
    """Build the plan of this machine's GPU into the state folder, unless the one that is there fits.

    max_batch           frames in one inference at most; a bundle of a fixed batch has its own
    workspace_mib       None = `WORKSPACE_MIB`, less on a Jetson
    compute_capability  such as "8.6", for a GPU that is not here: TensorRT-RTX only

    Raises BackendError (no driver, a graph that is refused, a build that fails), MissingDependency, UsageError, Interrupted.
    """
    driver = None if compute_capability is not None else _driver()
    trt = _module(with_gpu=driver is not None)
    if driver is not None:
        compute_capability = ".".join(map(str, driver.compute_capability))
    facts = PlanFacts(
        module=trt.__name__,
        version=trt.__version__,
        gpu=None if driver is None else driver.gpu,
        compute_capability=str(compute_capability),
        graph=bundle.manifest.graph_digest,
        max_batch=bundle.manifest.batch or max_batch,
    )
    folder = state.of_bundle(bundle.digest)
    why = why_not(folder, facts)
    if why is not None:
        timing = state.folder / f"timing-{trt.__name__}-{trt.__version__}.cache"
        plan = _plan(trt, bundle, facts, workspace_mib or workspace(), timing, watch, stop)
        write_plan(folder, facts, plan, driver=None if driver is None else str(driver))
    return Built(path=folder / facts.file, facts=facts, why=why)


def workspace(jetson: Path = _JETSON, memory: Path = _MEMORY) -> int:
    """MiB: `WORKSPACE_MIB`, on a Jetson a quarter of the free memory where that is less."""
    if not jetson.exists():
        return WORKSPACE_MIB
    free = dict(line.split(":") for line in memory.read_text().splitlines())["MemAvailable"]
    return min(WORKSPACE_MIB, int(free.split()[0]) // 4096)


def _driver() -> Driver:
    try:
        return probe()
    except BackendError as error:
        raise BackendError(
            f"{error} A plan for the GPU of another machine: --compute-capability X.Y, which needs TensorRT-RTX."
        ) from error


def _module(*, with_gpu: bool) -> Any:
    """TensorRT where there is a GPU, else TensorRT-RTX, which can do without. Raises MissingDependency."""
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
            f"TensorRT is not installed, and `build` needs it. Install it with: pip install {package}"
        ) from error
    return tensorrt_rtx


def _plan(
    trt: Any, bundle: Bundle, facts: PlanFacts, workspace_mib: int, timing: Path, watch: Observer, stop: Stop
) -> bytes:
    said: list[str] = []
    logger = _logger(trt, said)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(bundle.graph)):
        faults = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BackendError(f"{bundle.graph}: TensorRT cannot take this graph: {'; '.join(faults or said)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 in the graph means float32
    if facts.gpu is None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, facts.compute_capability), 0)
    m = bundle.manifest
    profile = builder.create_optimization_profile()
    least = m.batch or 1
    profile.set_shape("image", *((n, m.height, m.width, 3) for n in (least, least, facts.max_batch)))
    config.add_optimization_profile(profile)
    caches = facts.module == "tensorrt"  # TensorRT-RTX measures nothing: its timing cache does nothing and warns
    if caches:
        config.set_timing_cache(config.create_timing_cache(timing.read_bytes() if timing.is_file() else b""), False)
    config.progress_monitor = _monitor(trt, watch, stop)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if stop.asked:
            raise Interrupted("Stopped while the plan was being built: nothing was written.")
        raise BackendError(
            f"{bundle.graph}: TensorRT could not build a plan: {'; '.join(said) or 'it does not say why'}"
        )
    if caches:
        durable.make_folder(timing.parent)
        durable.write_file(timing, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _capability(trt: Any, wanted: str) -> Any:
    known: Mapping[str, Any] = trt.ComputeCapability.__members__
    name = f"SM{wanted.replace('.', '')}"
    if name not in known:
        digits = [each.removeprefix("SM") for each in known if each.startswith("SM")]
        raise UsageError(
            f"--compute-capability {wanted}: {trt.__name__} {trt.__version__} builds for "
            f"{', '.join(f'{each[:-1]}.{each[-1]}' for each in digits)}."
        )
    return known[name]


def _logger(trt: Any, said: list[str]) -> Any:
    """A logger that collects what TensorRT calls errors."""

    class Collecting(trt.ILogger):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.append(message)

    return Collecting()


def _monitor(trt: Any, watch: Observer, stop: Stop) -> Any:
    """The outermost phases as progress; a build that was asked to stop ends after the step in hand."""

    class Watching(trt.IProgressMonitor):  # type: ignore[misc]  # TensorRT has no types
        outer: str | None = None

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.outer = phase_name
                watch.begin(phase_name.lower(), num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self.outer:
                watch.advance()
            return not stop.asked

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Watching()
