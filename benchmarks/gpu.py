"""Plans of every precision on the NVIDIA GPU of this machine: are they right, do they select well, and how fast are they?

    python -m benchmarks.gpu [--weights untrained:0] [--size 224] [--drive drawn:0:300] [--repeats 200] [--json]

Each precision is exported with `--calibrate DRIVE`, built for batches of 1, 8 and 32, and verified as `geal-edge verify --check
DRIVE` does; `absent` says what could not be. Then one inference of each in turn, `--repeats` times: from frames in host memory to
answers in host memory. images/s is by the median; a ratio (x fp32) is taken within each turn. Without a GPU it says so, and
ends with 12.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.common import machine, show, spread
from geal_edge.config import Precision
from geal_edge.errors import BackendError, GealEdgeError
from geal_edge.export import engine
from geal_edge.export.exporter import ExportOptions, export
from geal_edge.models.bundle import Bundle
from geal_edge.models.preprocess import resize
from geal_edge.models.weights import load_weights
from geal_edge.runtime.backends.choice import open_backend
from geal_edge.runtime.backends.driver import probe
from geal_edge.runtime.backends.tensorrt import TensorRt, tensorrt_module
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spread import spread_frames
from geal_edge.runtime.state import State
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.verify import verify

BATCHES = (1, 8, 32)
WARM = 5
"""Inferences of each before the first that counts: TensorRT prepares itself in the first, and the second is captured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="untrained:0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--drive", default="drawn:0:300")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        gpu = probe()
    except BackendError as error:
        if options.json:
            print(json.dumps({"benchmark": "gpu", "machine": machine(), "gpu": None, "absent": str(error)}, indent=1))
        else:
            print(f"There is no GPU here, so nothing was measured: {error}")
        sys.exit(error.exit_code)
    trt = tensorrt_module()
    rows: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        bundles = made(options, Path(scratch), absent)
        for precision, bundle in bundles.items():
            rows |= right(precision, bundle, options.drive, Path(scratch), absent)
        for batch in BATCHES:
            rows |= fast(bundles, batch, options, Path(scratch), absent)
    facts = {
        "gpu": str(gpu),
        "busy": engine.busy_words(gpu),
        "engine": f"{trt.__name__} {trt.__version__}",
        "weights": options.weights,
        "size": f"{options.size}x{options.size}",
        "drive": options.drive,
        "repeats": options.repeats,
        "absent": absent,
    }
    show("gpu", rows, facts, as_json=options.json)


def made(options: Any, scratch: Path, absent: dict[str, str]) -> dict[str, Bundle]:
    """A bundle of each precision that TensorRT takes."""
    weights = load_weights(options.weights)
    bundles: dict[str, Bundle] = {}
    for precision in get_args(Precision):
        if precision == "int8-dynamic":
            continue  # for CPUs alone
        settings = ExportOptions(width=options.size, height=options.size, precision=precision)
        calibrate = None if precision == "fp32" else open_source(options.drive)
        try:
            bundles[precision] = export(
                weights, scratch / precision, settings, calibrate=calibrate, watch=Silent()
            ).bundle
        except GealEdgeError as error:
            absent[f"{precision}: export"] = str(error)
    return bundles


def built(bundle: Bundle, batch: int, scratch: Path) -> Path:
    """The folder in which the plan of that batch lies, and no other."""
    state = State(folder=scratch / f"state-{batch}")
    engine.build(bundle, state, max_batch=batch, watch=Silent(), stop=Stop())
    return state.of_bundle(bundle.digest)


def right(
    precision: str, bundle: Bundle, drive: str, scratch: Path, absent: dict[str, str]
) -> dict[str, dict[str, float]]:
    """How far the plan's answers are off float64's, and how its picks cover beside those of the same bundle on the CPU."""
    began = time.perf_counter()
    try:
        cache = built(bundle, 1, scratch)
    except GealEdgeError as error:
        absent[f"{precision}: build"] = str(error)
        return {}
    took_s = time.perf_counter() - began
    found = verify(
        bundle,
        "tensorrt",
        partial(open_backend, graph=bundle.graph, cache=cache),
        check=open_source(drive),
        watch=Silent(),
    )
    if not found.passed:
        absent[f"{precision}: verify"] = str(found)
    row = {"build s": took_s, "passed": float(found.passed)}
    if found.parity is not None:
        row |= {
            f"{output.name} off by, 1e-6": 1e6 * output.max_error
            for output in found.parity.outputs
            if np.isfinite(output.max_error)
        }
    if found.selection is not None:
        told = found.selection.as_dict()
        row |= {name: float(told[name]) for name in ("radius_ratio", "worst_radius_ratio", "mean_ratio", "jaccard")}
    return {f"{precision}: right": row}


def fast(
    bundles: dict[str, Bundle], batch: int, options: Any, scratch: Path, absent: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Milliseconds of an inference of that many frames, of all precisions in turn."""
    side = options.size
    frames = spread_frames(open_source(options.drive), batch, lambda image: resize(image, side, side, "area"))
    frames = np.resize(frames, (batch, *frames.shape[1:]))
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        engines: dict[str, TensorRt] = {}
        for precision, bundle in bundles.items():
            try:
                plan = TensorRt(bundle.graph, cache=built(bundle, batch, scratch))
                stack.enter_context(plan)
            except GealEdgeError as error:
                absent[f"{precision}: batch {batch}"] = str(error)
            else:
                engines[precision] = plan
        for turn in range(WARM + options.repeats):
            for precision, plan in engines.items():
                plan.run({"image": frames})
                if turn >= WARM:
                    times.setdefault(precision, []).append(1e3 * plan.last_s)
    rows = {}
    for precision, took in times.items():
        middle, slow = np.percentile(took, (50, 99))
        row = {"images/s": 1e3 * batch / middle, "p50 ms": float(middle), "p99 ms": float(slow)}
        if precision != "fp32" and "fp32" in times:
            ratios = spread(list(np.array(times["fp32"]) / np.array(took)))
            row |= {"x fp32": ratios["median"], "p10": ratios["p10"], "p90": ratios["p90"]}
        rows[f"{precision}: batch {batch}"] = row
    return rows


if __name__ == "__main__":
    main()
