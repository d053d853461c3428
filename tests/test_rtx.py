"""TensorRT-RTX builds engines on a machine with no GPU: so the TensorRT path of every precision cannot rot.

It parses as TensorRT 11 does; what the older parsers refuse is in `tests/test_precision.py`. `make test-rtx` runs these with
TensorRT-RTX installed. No engine is run here: that needs a GPU.
"""

import onnx
import pytest

from geal_edge.config import ClusterConfig
from geal_edge.export.answers import answer_each
from geal_edge.export.clustergraph import with_clusters
from geal_edge.export.graph import build_graph, serialize
from geal_edge.export.lint import lint
from geal_edge.export.lowering import layers_of, lowered_model
from geal_edge.export.precision import with_ranges
from geal_edge.models.vit import Weights
from geal_edge.models.weights import untrained
from tests.tiny import NORM, random_frames, tiny_weights

trt = pytest.importorskip(
    "tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'geal-edge[rtx]'", exc_type=ImportError
)

LARGEST_BATCH = 8


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("geometry", ["tiny", "ViT-S/16"])
def test_tensorrt_rtx_builds_every_precision_but_int8_dynamic(geometry, precision):
    weights, size = (tiny_weights(), 64) if geometry == "tiny" else (untrained(0), 224)
    model = graph_in(weights, size, precision)

    plan, faults = build(model, size)

    assert faults == []
    assert plan is not None
    stored = sum(tensor.size for tensor in weights.tensors.values())
    if geometry != "tiny":  # the weights are in the plan, in the precision that the graph says
        assert plan.nbytes / stored == pytest.approx({"fp32": 4, "fp16": 2, "int8": 1.3}[precision], rel=0.3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_builds_the_graph_that_ends_at_the_clusters(precision):
    plan, faults = build(with_clusters(graph_in(tiny_weights(), 64, precision), ClusterConfig()), 64)
    assert faults == []
    assert plan is not None


def test_tensorrt_rtx_refuses_int8_dynamic():
    plan, faults = build(graph_in(tiny_weights(), 64, "int8-dynamic"), 64)
    assert plan is None
    assert faults


def graph_in(weights: Weights, size: int, precision) -> onnx.ModelProto:
    """A graph with all that can be lowered in that precision; ranges from frames of noise."""
    model = build_graph(weights, width=size, height=size, **NORM)
    if precision == "fp32":
        assert lint(model) == []
        return model
    layers = layers_of(model, precision, weights.geometry.depth)
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type in ("MatMul", "Conv")))
    (answer,) = answer_each(serialize(with_ranges(model, names)), random_frames(1, size, size))
    ranges = {name: float(answer[f"{name}.largest"]) for name in names}
    lowered = lowered_model(model, precision, set().union(*layers.values()), ranges)
    assert (lint(lowered) == []) is (precision != "int8-dynamic")
    return lowered


def build(model: onnx.ModelProto, size: int):
    """(plan or None, what the parser said): for one GPU generation, batches of 1 to 8."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(serialize(model)):
        return None, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *((batch, size, size, 3) for batch in (1, 1, LARGEST_BATCH)))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config), []
