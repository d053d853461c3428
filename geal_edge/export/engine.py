"""A bundle's graph becomes a TensorRT plan, on the machine that will run it: `geal-edge build`.

What the numbers inside are stands in the graph (strongly typed), never in a flag. Without a driver nothing of TensorRT is made,
since its objects end the process then; TensorRT-RTX alone builds with no GPU, for a compute capability that is named.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geal_edge.config import Precision
from geal_edge.errors import BackendError, Interrupted, UsageError
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import durable
from geal_edge.runtime.backends.cuda import cuda_bindings
from geal_edge.runtime.backends.driver import Driver, probe
from geal_edge.runtime.backends.tensorrt import Log, tensorrt_module
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.plan import PlanFacts, why_not, write_plan
from geal_edge.runtime.records import forget
from geal_edge.runtime.state import State
from geal_edge.runtime.stopping import Stop

WORKSPACE_MIB = 1024
"""Scratch memory that the build may plan with; on a Jetson at most a quarter of what is free, which the vehicle shares."""
AMPERE = (8, 0)
"""The first compute capability that hardware-compatible plans are for."""
BUSY_PERCENT = 10
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
    hardware_compatible: bool = False,
    watch: Observer,
    stop: Stop,
) -> Built:
    """Build the plan of this machine's GPU into the state folder, unless the one that is there fits.

    max_batch            frames in one inference at most, and how many the plan is made fast for; a bundle of a fixed batch has
                         its own
    workspace_mib        None = `WORKSPACE_MIB`, less on a Jetson
    compute_capability   such as "8.6", for a GPU that is not here: TensorRT-RTX only
    hardware_compatible  one plan for all GPUs from Ampere on, at some cost in speed: TensorRT only, and not on a Jetson

    Raises BackendError (no driver, a graph that is refused, a build that fails), MissingDependency, UsageError, Interrupted.
    """
    driver = None if compute_capability is not None else _driver()
    trt = tensorrt_module(with_gpu=driver is not None)
    if hardware_compatible:
        _require_compatible(trt, driver)
    if driver is not None:
        compute_capability = ".".join(map(str, AMPERE if hardware_compatible else driver.compute_capability))
    facts = PlanFacts(
        module=trt.__name__,
        version=trt.__version__,
        gpu=None if driver is None or hardware_compatible else driver.gpu,
        compute_capability=f"{compute_capability}+" if hardware_compatible else str(compute_capability),
        graph=bundle.manifest.graph_digest,
        max_batch=bundle.manifest.batch or max_batch,
    )
    folder = state.of_bundle(bundle.digest)
    why = why_not(folder, facts)
    if why is not None:
        busy = None if driver is None else busy_words(driver)
        if busy is not None:
            watch.warn(busy)
        timing = state.folder / f"timing-{trt.__name__}-{trt.__version__}.cache"
        plan = _plan(trt, bundle, facts, workspace_mib or workspace(), timing, watch, stop)
        forget(state, bundle, "tensorrt")  # what the plan before this one answered says nothing of this one
        write_plan(folder, facts, plan, driver=None if driver is None else str(driver))
    return Built(path=folder / facts.file, facts=facts, why=why)


def require_machine(precision: Precision) -> None:
    """Raise what would keep a plan from being built and run here: better said before an export than after it.

    Raises BackendError, MissingDependency, and UsageError for the precision that is for CPUs alone.
    """
    if precision == "int8-dynamic":
        raise UsageError("--engine: int8-dynamic is for CPUs alone. Choose --precision int8, or leave out --engine.")
    _driver()
    tensorrt_module()
    cuda_bindings()


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
            f"{error} A plan for the GPU of another machine: geal-edge build BUNDLE --compute-capability X.Y, which needs "
            "TensorRT-RTX."
        ) from error


def _require_compatible(trt: Any, driver: Driver | None) -> None:
    if trt.__name__ != "tensorrt" or driver is None:
        raise UsageError(
            "--hardware-compatible: TensorRT-RTX has no such plans. Name the GPU instead: --compute-capability X.Y."
        )
    if _JETSON.exists() or driver.compute_capability < AMPERE:
        raise UsageError(
            f"--hardware-compatible: TensorRT has no such plans for a Jetson or a GPU before Ampere (8.0), and this is "
            f"{driver}. Leave it out: identical vehicles may share a plan."
        )


def busy_words(driver: Driver) -> str | None:
    """That the GPU has other work, in words; None where it has not, or where nobody can say (a Jetson has no nvidia-smi)."""
    query = ["nvidia-smi", "--query-gpu=name,utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (line.rpartition(",") for line in told.splitlines())
    busy = [int(share) for name, _, share in lines if name.strip() == driver.gpu and share.strip().isdecimal()]
    if max(busy, default=0) < BUSY_PERCENT:
        return None
    return (
        f"the GPU is busy ({max(busy)} %): TensorRT times its kernels to choose among them, and may choose slower ones. "
        "Stop the other work and build again, if speed matters."
    )


def _plan(
    trt: Any, bundle: Bundle, facts: PlanFacts, workspace_mib: int, timing: Path, watch: Observer, stop: Stop
) -> bytes:
    log = Log(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(bundle.graph)):
        faults = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BackendError(f"{bundle.graph}: TensorRT cannot take this graph: {'; '.join(faults or log.said)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 in the graph means float32
    if facts.compute_capability.endswith("+"):
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif facts.gpu is None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, facts.compute_capability), 0)
    m = bundle.manifest
    profile = builder.create_optimization_profile()
    least = m.batch or 1
    profile.set_shape("image", *((n, m.height, m.width, 3) for n in (least, facts.max_batch, facts.max_batch)))
    config.add_optimization_profile(profile)
    caches = facts.module == "tensorrt"  # TensorRT-RTX measures nothing: its timing cache does nothing and warns
    if caches:
        config.set_timing_cache(config.create_timing_cache(timing.read_bytes() if timing.is_file() else b""), False)
    config.progress_monitor = _monitor(trt, watch, stop)
    plan = builder.build_serialized_network(network, config)
    if plan is None and stop.asked:
        raise Interrupted("Stopped while the plan was being built: nothing was written.")
    plan = log.made(plan, f"{bundle.graph}: TensorRT could not build a plan")
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
