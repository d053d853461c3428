"""What the graph groups, held against what the host groups: runtime/distill.py and runtime/clusters.py are the reference."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from geal_edge.config import ClusterConfig
from geal_edge.errors import UsageError
from geal_edge.export.clustergraph import with_clusters
from geal_edge.export.graph import IR_VERSION, OPSET, build_graph
from geal_edge.export.lint import lint
from geal_edge.export.lowering import layers_of, lowered_model
from geal_edge.runtime.clusters import KnowledgeClusters, knowledge_clusters
from geal_edge.runtime.distill import distill
from tests.tiny import NORM, TINY16, run_feeds, tiny_weights

GEAL = ClusterConfig()
FP16_STEP = 2.0**-11  # of numbers below 1: two float64 results that round apart are this far from each other


def grouping(recipe: ClusterConfig, patches: int, dim: int) -> onnx.ModelProto:
    """The added part alone, behind features that are fed to it."""
    shapes: dict[str, list[str | int | None]] = {
        "patch_features": ["N", patches, dim],
        "cls_attention": ["N", patches],
    }
    fed = [helper.make_tensor_value_info(f"{name}.fed", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [helper.make_node("Identity", [f"{name}.fed"], [name], name) for name in shapes]
    graph = helper.make_graph(nodes, "fed", fed, outputs)
    opset = [helper.make_opsetid("", OPSET)]
    return with_clusters(helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION), recipe)


def grouped(tokens, attention, recipe: ClusterConfig = GEAL) -> list[KnowledgeClusters]:
    """The graph's clusters of tokens (n, P, D) with attention (n, P)."""
    feeds = {"patch_features.fed": tokens.astype(np.float32), "cls_attention.fed": attention.astype(np.float32)}
    answer = run_feeds(grouping(recipe, *tokens.shape[1:]), feeds)
    return [
        KnowledgeClusters(rows=rows[:count].astype(np.float16), patch_cluster=labels.astype(np.int16))
        for rows, count, labels in zip(
            answer["clusters"], answer["cluster_count"], answer["patch_cluster"], strict=True
        )
    ]


def hosts(tokens, attention, recipe: ClusterConfig = GEAL) -> list[KnowledgeClusters]:
    found = []
    for each, weight in zip(tokens.astype(np.float16), attention.astype(np.float32), strict=True):
        distilled = distill(each, weight, attention_ratio=recipe.attention_ratio)
        found.append(knowledge_clusters(distilled, recipe))
    return found


def require_same(found: list[KnowledgeClusters], expected: list[KnowledgeClusters]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.patch_cluster.tolist() == theirs.patch_cluster.tolist()
        assert np.abs(ours.rows.astype(np.float64) - theirs.rows).max() <= FP16_STEP


def drawn(frames: int = 6, patches: int = 100, dim: int = 48, seed: int = 0):
    """Tokens around some thirty places, and attention as uneven as a trained model's."""
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((frames, 30, dim))
    tokens = np.take_along_axis(places, rng.integers(0, 30, (frames, patches, 1)), axis=1)
    return tokens + 0.4 * rng.standard_normal(tokens.shape), rng.dirichlet(np.full(patches, 0.5), frames)


@pytest.mark.parametrize("ratio", [1e-9, 0.02, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("k", [1, 5, 25])
def test_the_graph_makes_the_clusters_of_the_host(ratio, k):
    tokens, attention = drawn()
    recipe = ClusterConfig(attention_ratio=ratio, clusters_per_frame=k)
    require_same(grouped(tokens, attention, recipe), hosts(tokens, attention, recipe))


def test_with_k_tokens_or_fewer_each_is_its_own_cluster_in_patch_order():
    tokens, attention = drawn()
    (clusters, *_) = found = grouped(tokens, attention, ClusterConfig(attention_ratio=0.2))
    assert len(clusters.rows) < 25
    assert [label for label in clusters.patch_cluster if label >= 0] == list(range(len(clusters.rows)))
    require_same(found, hosts(tokens, attention, ClusterConfig(attention_ratio=0.2)))


def test_one_token_that_has_all_attention_is_one_cluster():
    tokens, attention = drawn(frames=1)
    attention[:] = np.eye(100)[7]
    (clusters,) = grouped(tokens, attention)
    assert np.flatnonzero(clusters.patch_cluster >= 0).tolist() == [7]
    require_same([clusters], hosts(tokens, attention))


def test_of_equally_attended_tokens_those_of_lower_index_stay():
    tokens, attention = drawn()
    attention = attention.astype(np.float16)  # as a graph in fp16 answers it: sums a little off 1, and ties
    attention[1] = np.float16(0.01)
    for ratio in (0.3, 0.5, 0.7):
        recipe = ClusterConfig(attention_ratio=ratio)
        require_same(grouped(tokens, attention, recipe), hosts(tokens, attention, recipe))


def test_copies_of_tokens_start_no_cluster_of_their_own():
    tokens, attention = drawn(frames=2)
    tokens = tokens[:, np.arange(100) % 9]  # nine tokens, again and again
    recipe = ClusterConfig(attention_ratio=1.0)
    for ours, theirs in zip(grouped(tokens, attention, recipe), hosts(tokens, attention, recipe), strict=True):
        # A copy of a start may take over all its tokens, so the order may be another; the groups are the same.
        pairs = {*zip(ours.patch_cluster.tolist(), theirs.patch_cluster.tolist(), strict=True)}
        assert len(pairs) == len(ours.rows) == len(theirs.rows) == 9
        for mine, other in pairs:
            assert np.abs(ours.rows[mine].astype(np.float64) - theirs.rows[other]).max() <= FP16_STEP


def test_a_frame_is_grouped_the_same_alone_and_among_others():
    tokens, attention = drawn()
    together = grouped(tokens, attention)
    for i, clusters in enumerate(together):
        (alone,) = grouped(tokens[i : i + 1], attention[i : i + 1])
        assert (alone.patch_cluster == clusters.patch_cluster).all()
        assert np.abs(alone.rows.astype(np.float64) - clusters.rows).max() <= FP16_STEP


def test_tokens_that_cancel_each_other_out_are_a_row_of_zeros_and_no_nan():
    tokens = np.zeros((1, 4, 8))
    tokens[0, :, 0] = [1, -1, 1, -1]
    (clusters,) = grouped(tokens, np.full((1, 4), 0.25), ClusterConfig(attention_ratio=1.0, clusters_per_frame=1))
    assert clusters.rows.tolist() == [[0.0] * 8]


@pytest.mark.parametrize(
    "recipe",
    [
        ClusterConfig(kmeans_metric="euclidean"),
        ClusterConfig(kmeans_start="random"),
        ClusterConfig(ratio_rule="paper"),
        ClusterConfig(downsampling="A2"),
    ],
)
def test_a_recipe_that_no_graph_has_is_refused_by_name(recipe):
    (name,) = (n for n in ("kmeans_metric", "kmeans_start", "ratio_rule", "downsampling")
               if getattr(recipe, n) != getattr(GEAL, n))  # fmt: skip
    with pytest.raises(UsageError, match=name):
        grouping(recipe, 9, 8)


@pytest.mark.parametrize("batch", [None, 2])
def test_the_older_parsers_of_tensorrt_take_the_graph(batch):
    model = with_clusters(build_graph(tiny_weights(), width=64, height=64, batch=batch, **NORM), GEAL)
    onnx.checker.check_model(model, full_check=True)
    assert lint(model) == []
    assert [o.name for o in model.graph.output][-3:] == ["clusters", "cluster_count", "patch_cluster"]


def test_more_patches_than_tensorrt_sorts_are_refused_by_the_lint():
    assert any("TopK" in fault for fault in lint(grouping(GEAL, 4000, 8)))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-dynamic"])
def test_no_precision_touches_distillation_and_kmeans(precision):
    plain = build_graph(tiny_weights(), width=64, height=64, **NORM)
    model = with_clusters(plain, GEAL)
    layers = layers_of(model, precision, TINY16.depth)
    assert layers == layers_of(plain, precision, TINY16.depth)
    names = set().union(*layers.values())
    ranges = dict.fromkeys((name for node in model.graph.node for name in node.input), 4.0)

    lowered = lowered_model(model, precision, names, ranges)

    found = {node.name: node for node in lowered.graph.node}
    for node in model.graph.node[len(plain.graph.node) :]:
        assert found[node.name] == node
