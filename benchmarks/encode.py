"""Milliseconds per frame of every precision and engine that this machine has, beside two ways of running the model with torch.

    python -m benchmarks.encode [--weights untrained:0] [--size 224] [--repeats 15] [--threads N] [--json]

(a) is the method's plain way: two passes in torch, one for the tokens of the second-last block, one for the last attention.
(b) is one pass for both, put out by `torch.onnx.export` and run by ONNX Runtime. Both need torch; without it only the ratios
over fp32 in ONNX Runtime are told. One inference of each in turn, `--repeats` times; a ratio is taken within each turn, so that
other work on the machine meets all alike. In fp16 and int8 every layer is lowered that can be: the most that it can give.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import show, spread
from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD
from geal_edge.errors import BackendError, MissingDependency
from geal_edge.export.answers import answer_each
from geal_edge.export.graph import build_graph, serialize
from geal_edge.export.lowering import layers_of, lowered_model
from geal_edge.export.precision import with_ranges
from geal_edge.models.preprocess import resize
from geal_edge.models.vit import Weights
from geal_edge.models.weights import load_weights
from geal_edge.runtime.backends.choice import open_backend
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.sources import open_source

BATCHES = (1, 8)
ENGINES = (("fp32", "ort-cpu"), ("fp16", "ort-cpu"), ("int8", "ort-cpu"), ("int8-dynamic", "ort-cpu"), ("fp32", "openvino"),
           ("fp16", "openvino"), ("int8", "openvino"), ("int8-dynamic", "openvino"), ("fp32", "openvino-bf16"),
           ("fp32", "openvino-f16"))  # fmt: skip
REFERENCES = {"(a) two torch passes": "(a)", "(b) torch.onnx.export": "(b)", "fp32 on ort-cpu": "fp32"}
"""What each is compared with, and the word for it."""
Call = Callable[[Any], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="untrained:0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    weights = load_weights(options.weights)
    source = open_source(f"drawn:0:{max(BATCHES)}")
    side = options.size
    frames = np.stack([resize(f.image, side, side, "area") for f in source.frames() if isinstance(f, Frame)])
    rows: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        calls = dict(ours(weights, frames, Path(scratch), options.threads, stack, absent))
        calls |= torchs(weights, side, Path(scratch), options.threads, absent)
        for batch in BATCHES:
            times = interleaved(calls, frames[:batch], options.repeats)
            for name, took in times.items():
                row = {"ms/frame": np.median(took) * 1e3 / batch}
                for reference, word in REFERENCES.items():
                    if reference in times:
                        ratios = spread(list(np.array(times[reference]) / np.array(took)))
                        row |= {f"x {word}": ratios["median"], "p10" + word: ratios["p10"], "p90" + word: ratios["p90"]}
                rows[f"batch {batch}: {name}"] = {key: float(value) for key, value in row.items()}
    facts = {
        "model": weights.geometry.name,
        "size": f"{side}x{side}",
        "repeats": options.repeats,
        "threads": options.threads,
        "absent": absent,
    }
    show("encode", rows, facts, as_json=options.json)


def ours(
    weights: Weights, frames: Any, scratch: Path, threads: int, stack: ExitStack, absent: dict[str, str]
) -> Iterator[tuple[str, Call]]:
    """Every engine that starts here; what does not says why."""
    model = build_graph(
        weights,
        width=frames.shape[2],
        height=frames.shape[1],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        cls_embedding=False,
    )
    inputs = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type in ("MatMul", "Conv")))
    answer = next(iter(answer_each(serialize(with_ranges(model, inputs)), frames[:1])))
    ranges = {name: float(answer[f"{name}.largest"]) for name in inputs}
    for precision, engine in ENGINES:
        path = scratch / f"{precision}.onnx"
        if not path.exists():
            layers = {} if precision == "fp32" else layers_of(model, precision, weights.geometry.depth)  # type: ignore[arg-type]
            names = {name for each in layers.values() for name in each}
            lowered = model if precision == "fp32" else lowered_model(model, precision, names, ranges)  # type: ignore[arg-type]
            path.write_bytes(serialize(lowered))
        name = f"{precision} on {engine}"
        try:
            backend = stack.enter_context(open_backend(engine, path, cache=scratch, threads=threads))  # type: ignore[arg-type]
        except (BackendError, MissingDependency) as error:
            absent[name] = str(error)
        else:
            yield name, lambda batch, backend=backend: backend.run({"image": batch})  # type: ignore[misc]


def torchs(weights: Weights, side: int, scratch: Path, threads: int, absent: dict[str, str]) -> dict[str, Call]:
    """(a) and (b), where torch is installed."""
    try:
        import torch
    except ImportError:
        absent["(a) and (b)"] = "torch is not installed"
        return {}
    from benchmarks.torch_vit import Both, Tokens, pixels_of, vit_of

    torch.set_grad_enabled(False)
    torch.set_num_threads(threads)
    vit = vit_of(weights, side)
    tokens, both, path = Tokens(vit).eval(), Both(vit).eval(), scratch / "torch.onnx"

    def two_passes(batch: Any) -> object:
        pixels = pixels_of(batch)
        return tokens(pixels), vit.last_attention(pixels)

    calls: dict[str, Call] = {"(a) two torch passes": two_passes}
    try:
        names = {"input_names": ["pixels"], "output_names": ["tokens", "attention"]}
        one = torch.zeros(1, 3, side, side)
        axes = {name: {0: "N"} for name in ("pixels", "tokens", "attention")}
        torch.onnx.export(both, (one,), str(path), **names, opset_version=17, dynamic_axes=axes, dynamo=False)
    except Exception as error:  # noqa: BLE001  torch's exporters raise whatever their parts do
        absent["(b) torch.onnx.export"] = str(error).splitlines()[0]
        return calls
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    calls["(b) torch.onnx.export"] = lambda batch: session.run(None, {"pixels": pixels_of(batch).numpy()})
    return calls


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into.append(time.perf_counter() - began)


def interleaved(calls: dict[str, Call], batch: Any, repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, one of each in turn; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            with timed(times[name]):
                call(batch)
    return {name: took[1:] for name, took in times.items()}


if __name__ == "__main__":
    main()
