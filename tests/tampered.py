"""Bundles whose graph was changed after export, with digests that fit: what an engine that computes wrong looks like."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from geal_edge.models.bundle import GRAPH_FILE, MANIFEST_FILE, Bundle, file_digest


def tampered(bundle: Bundle, place: Path, change: Callable[[onnx.ModelProto], None]) -> Bundle:
    """A copy of a bundle with its graph changed."""

    def rewrite(graph: Path) -> None:
        model = onnx.load(str(graph))
        change(model)
        onnx.save(model, str(graph))

    return with_graph(bundle, place, rewrite)


def with_graph(bundle: Bundle, place: Path, rewrite: Callable[[Path], object]) -> Bundle:
    """A copy of a bundle with its graph's file rewritten."""
    shutil.copytree(bundle.path, place)
    rewrite(place / GRAPH_FILE)
    return with_manifest(place, lambda data: data["graph"].update(digest=file_digest(place / GRAPH_FILE)))


def with_manifest(place: Path, change: Callable[[dict[str, Any]], None]) -> Bundle:
    data = json.loads((place / MANIFEST_FILE).read_text())
    change(data)
    (place / MANIFEST_FILE).write_text(json.dumps(data))
    return Bundle.open(place)


def nan_always(model: onnx.ModelProto) -> None:
    """Patch features are NaN for every frame."""
    _patch_features_plus(model, [], factor="not_a_number", value=np.float32(np.nan))


def nan_on_black(model: onnx.ModelProto) -> None:
    """Patch features are infinite for a frame that has nothing but black pixels, and as they were for all others."""
    # Largest pixel m, as float: the features are divided by 1 where m > 0, and by 0 where m = 0.
    nodes = [
        helper.make_node("Cast", ["image"], ["tamper.pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["tamper.pixels"], ["tamper.largest"], keepdims=0),
        helper.make_node("Sign", ["tamper.largest"], ["tamper.lit"]),
        helper.make_node("Reciprocal", ["tamper.lit"], ["tamper.factor"]),
    ]
    _patch_features_plus(model, nodes, factor="tamper.factor")


def scaled(by: float) -> Callable[[onnx.ModelProto], None]:
    """Patch features are `by` times what they were: finite, sane to look at, and wrong."""
    return lambda model: _patch_features_plus(model, [], factor="tamper.scale", value=np.float32(by))


def _patch_features_plus(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], *, factor: str, value: np.float32 | None = None
) -> None:
    """Multiply the output `patch_features` by a tensor of the graph."""
    graph = model.graph
    for node in graph.node:
        names = ["tamper.was" if name == "patch_features" else name for name in node.output]
        del node.output[:]
        node.output.extend(names)
        inputs = ["tamper.was" if name == "patch_features" else name for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
    if value is not None:
        graph.initializer.append(numpy_helper.from_array(np.array(value), factor))
    graph.node.extend([*nodes, helper.make_node("Mul", ["tamper.was", factor], ["patch_features"])])
