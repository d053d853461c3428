"""Libraries are tried in a process of their own: one that ends the process, hangs or prints cannot take the doctor with it.

parent: start `python -m geal_edge.runtime.doctor.trial WHAT` in an empty folder -> read outcome.json there
child:  load the library, let it do the least that proves it, write outcome.json
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geal_edge.errors import BackendError, GealEdgeError
from geal_edge.runtime.backends.choice import open_backend

TIMEOUT_S = 120.0
"""TensorRT's first start on a Jetson takes tens of seconds."""

OPENCV, TENSORRT, TENSORRT_RTX = "opencv", "tensorrt", "tensorrt_rtx"

GRAPH = (
    b'\x08\x08:D\n\x11\n\x01x\n\x01x\x12\x01y"\x06MatMul\x12\x05trialZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02'
    b"\n\x02\x08\x02b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02B\x04\n\x00\x10\x11"
)
"""An ONNX file, opset 17: y = x @ x, both float32 [2, 2]. Written out, as a vehicle has no onnx."""

_OUTCOME = "outcome.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """facts: what the library told of itself; error: why it cannot be used, else None."""

    facts: dict[str, Any]
    error: str | None


def trial(what: str, *, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Try a backend by its name, or OPENCV, TENSORRT, TENSORRT_RTX."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            ended = subprocess.run(
                [sys.executable, "-m", __name__, what],
                cwd=folder,  # `-m` looks for modules there first: nobody's files must be taken for a library
                env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path)},
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(facts={}, error=f"it did not answer within {timeout_s:.0f} s.")
        outcome = Path(folder, _OUTCOME)
        if ended.returncode == 0 and outcome.exists():
            return Outcome(**json.loads(outcome.read_bytes()))
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"code {ended.returncode}"
    (*_, last) = ["", *ended.stderr.decode(errors="replace").strip().splitlines()]
    return Outcome(facts={}, error=f"it ended its process with {how}{': ' if last else ''}{last[:300]}.")


def try_here(what: str) -> Outcome:
    """The same in this process."""
    try:
        if what == OPENCV:
            return Outcome(facts=_opencv(), error=None)
        # The backend `tensorrt` runs plans of bundles alone: the library of that name is what can be tried.
        return Outcome(facts=_tensorrt(what) if what in (TENSORRT, TENSORRT_RTX) else _engine(what), error=None)
    except (GealEdgeError, ImportError) as error:
        return Outcome(facts={}, error=str(error))


def _engine(name: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "trial.onnx")
        graph.write_bytes(GRAPH)
        with open_backend(name, graph, cache=Path(folder), threads=1) as engine:
            found = engine.run({"x": np.array([[1, 2], [3, 4]], np.float32)})["y"]
            if found.tolist() != [[7, 10], [15, 22]]:  # small enough to be exact in every precision
                raise BackendError(f"{name}: answered {found.tolist()} for a product of two by two numbers.")
    return {}


def _opencv() -> dict[str, Any]:
    import cv2

    built = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in cv2.getBuildInformation().splitlines())
    }
    return {
        "version": cv2.__version__,
        "ffmpeg": built.get("FFMPEG", "NO").startswith("YES"),
        "gstreamer": built.get("GStreamer", "NO").startswith("YES"),
    }


def _tensorrt(module: str) -> dict[str, Any]:
    """Raises BackendError; for `tensorrt` only where a driver answers, as its objects end the process otherwise."""
    if module == TENSORRT:
        import tensorrt as trt
    else:
        import tensorrt_rtx as trt
    if trt.Builder(trt.Logger(trt.Logger.ERROR)) is None:
        raise BackendError(f"{module} {trt.__version__}: no builder can be made.")
    return {"version": trt.__version__}


if __name__ == "__main__":
    tried = try_here(sys.argv[1])
    Path(_OUTCOME).write_text(json.dumps({"facts": tried.facts, "error": tried.error}))
