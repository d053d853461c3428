"""Python, packages, and libraries: whether they load and what they can do."""

import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import get_args

import geal_edge
from geal_edge.errors import BackendError, MissingDependency
from geal_edge.runtime.backends.choice import INSIDE, BackendName
from geal_edge.runtime.backends.driver import probe
from geal_edge.runtime.backends.identity import identity
from geal_edge.runtime.backends.installed import installed_version
from geal_edge.runtime.backends.ortgpu import require_one_wheel
from geal_edge.runtime.doctor.finding import Finding, System
from geal_edge.runtime.doctor.trial import OPENCV, TENSORRT, TENSORRT_RTX, trial

NEWEST_TESTED = (3, 13)

PACKAGES = (
    *("numpy", "typer", "tomli", "pillow", "threadpoolctl", "opencv-python-headless", "opencv-python"),
    *("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu13", "tensorrt-rtx"),
    *("cuda-bindings", "onnx", "safetensors", "huggingface_hub", "scikit-learn", "scipy"),
    *("mcap", "lz4", "zstandard", "numba", "obstore"),
)
"""All that an extra for users brings (pyproject.toml), the core, and the names under which a Jetson may have TensorRT."""

_ON_JETSON = (
    "On a Jetson onnxruntime-gpu comes from NVIDIA's own index; the extras cpu, gpu and openvino would hide JetPack's OpenCV "
    "(docs/targets/)"
)
"""What the extras bring has no kernels for a Jetson, and numpy 2 and an OpenCV without GStreamer besides."""

_OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def versions() -> dict[str, str]:
    """package -> version, of those of PACKAGES that are installed, with geal-edge's own."""
    found = {package: its for package in PACKAGES if (its := installed_version(package)) is not None}
    return {"geal-edge": geal_edge.__version__, **found}


def python(system: System) -> Iterator[Finding]:
    newer = sys.version_info[:2] > NEWEST_TESTED
    where = "in a virtual environment" if sys.prefix != sys.base_prefix else "of the system"
    yield Finding(
        name="python",
        verdict="degraded" if newer else "good",
        seen=f"{platform.python_version()} {where}, {platform.machine()}, {platform.system()} {platform.release()}",
        advice="Newer than what geal-edge is tested with: if something fails, try 3.13." if newer else "",
        facts={"version": platform.python_version(), "executable": sys.executable},
    )


def packages(system: System) -> Iterator[Finding]:
    found = versions()
    yield Finding(
        name="packages",
        verdict="good",
        seen=", ".join(f"{package} {its}" for package, its in found.items()),
        facts={"versions": found},
    )
    if find_spec("PIL") is None:
        yield Finding(
            name="pillow",
            verdict="broken",
            seen="not installed; frames are resized with it (pil_bicubic, the default of a bundle)",
            advice="pip install 'geal-edge[cpu]' (on a Jetson: 'geal-edge[jetpack6]')",
        )


def opencv(system: System) -> Iterator[Finding]:
    wheels = [f"{package} {its}" for package in _OPENCVS if (its := installed_version(package)) is not None]
    if len(wheels) > 1:
        yield Finding(
            name="opencv",
            verdict="broken",
            seen=f"{' and '.join(wheels)} are installed, and each overwrites files of the other",
            advice=f"pip uninstall -y {' '.join(_OPENCVS)}; then install one of them",
        )
    outcome = trial(OPENCV)
    if outcome.error is not None:
        yield Finding(
            name="opencv",
            verdict="degraded",
            seen=f"cannot be used, so no video file can be read: {outcome.error}",
            advice="apt-get install python3-opencv, in an environment made with --system-site-packages"
            if system.is_jetson
            else "pip install 'geal-edge[cpu]'",
        )
        return
    facts = outcome.facts
    has = {name: "yes" if facts[name.lower()] else "no" for name in ("FFmpeg", "GStreamer")}
    seen = f"{facts['version']}, " + ", ".join(f"{name} {answer}" for name, answer in has.items())
    if not facts["ffmpeg"]:
        advice = "Built without FFmpeg: no video file can be read. Use a build that has it, such as pip's."
    elif system.is_jetson and not facts["gstreamer"]:
        advice = "A pip OpenCV hides JetPack's own, which has GStreamer: pip uninstall -y " + " ".join(_OPENCVS)
    else:
        advice = ""
    yield Finding(name="opencv", verdict="degraded" if advice else "good", seen=seen, advice=advice, facts=facts)


def wheels(system: System) -> Iterator[Finding]:
    """Whether the files of ONNX Runtime are those of one package; nothing is said where they are."""
    try:
        require_one_wheel()
    except BackendError as error:
        yield Finding(
            name="onnxruntime", verdict="broken", seen=str(error), advice=_ON_JETSON if system.is_jetson else ""
        )


def engines(system: System) -> Iterator[Finding]:
    """Every backend, by a session that it runs; a list of providers proves nothing. Of TensorRT's plans the library is tried."""
    findings: dict[BackendName, Finding] = {}
    for name in get_args(BackendName):
        if name == TENSORRT:
            continue
        findings[name] = _engine(name, findings, on_jetson=system.is_jetson)
        yield findings[name]
    if all(finding.verdict != "good" for finding in findings.values()) and not _plans_run(system):
        yield Finding(
            name="engines",
            verdict="broken",
            seen="no engine runs on this machine, so no frame can be judged",
            advice=_ON_JETSON
            if system.is_jetson
            else "pip install 'geal-edge[cpu]'; docs/targets/ has a page for each kind of machine",
        )


def _plans_run(system: System) -> bool:
    """Whether TensorRT answers on a GPU that is there: its plans need no other engine."""
    try:
        probe()
    except BackendError:
        return False
    return any(finding.verdict == "good" for finding in tensorrt(system))


def _engine(name: BackendName, others: dict[BackendName, Finding], *, on_jetson: bool) -> Finding:
    try:
        here = identity(name)
    except MissingDependency as error:
        return Finding(name=name, verdict="absent", seen=_words(error, name), advice=_ON_JETSON if on_jetson else "")
    except BackendError as error:
        return Finding(name=name, verdict="degraded", seen=f"installed, and cannot run: {_words(error, name)}")
    if name in INSIDE and others["openvino"].verdict != "good":
        return replace(others["openvino"], name=name)
    outcome = trial(name)
    if outcome.error is None:
        seen = f"{here.engine} on {here.device}: a session was made and answered right"
        return Finding(name=name, verdict="good", seen=seen)
    if name in INSIDE:
        return Finding(
            name=name, verdict="absent", seen=_words(outcome.error, name)
        )  # a precision that this processor does not have
    return Finding(name=name, verdict="degraded", seen=f"installed, and cannot run: {_words(outcome.error, name)}")


def _words(error: object, name: str) -> str:
    """An error without the name of the backend, which stands before it in the report."""
    return str(error).removeprefix(f"{name}: ")


def tensorrt(system: System) -> Iterator[Finding]:
    """The libraries that `build` makes plans with, and `--backend tensorrt` runs them."""
    for module, extra in ((TENSORRT, "tensorrt"), (TENSORRT_RTX, "rtx")):
        if find_spec(module) is None:
            advice = (
                "JetPack has it as a package of the system: make the environment with the system's python3 and "
                "--system-site-packages"
                if system.is_jetson and module == TENSORRT
                else f"`geal-edge build` needs it: pip install 'geal-edge[{extra}]'"
            )
            yield Finding(name=module, verdict="absent", seen="not installed", advice=advice)
            continue
        if module == TENSORRT:
            try:
                probe()
            except BackendError as error:  # asked first: without a driver TensorRT's objects end the process
                yield Finding(name=module, verdict="degraded", seen=f"installed, and cannot run: {error}")
                continue
        outcome = trial(module)
        yield Finding(
            name=module,
            verdict="good" if outcome.error is None else "degraded",
            seen=f"{outcome.facts['version']}: a builder was made"
            if outcome.error is None
            else f"installed, and cannot run: {outcome.error}",
            facts=outcome.facts,
        )
