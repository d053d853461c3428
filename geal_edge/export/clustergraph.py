"""Distillation and K-Means as part of the graph: frame in, knowledge clusters out, with nothing of ours behind the engine.

    patch_features (N, P, D), cls_attention (N, P)
      -> clusters       (N, K, D) float32  unit rows; those at or past the count are undefined
      -> cluster_count  (N,) int32         1..K
      -> patch_cluster  (N, P) int32       the row that each patch went into, -1 = distilled away

The recipe is the host's (runtime/distill.py, runtime/clusters.py), step by step, for all P patches at once: what is distilled
away takes part in no mean and is never a start. Loops are written out, 24 starts and 5 steps for the default recipe, as
engines on vehicles take no loop whose end depends on a value; a step that moves no token changes nothing, so the host's early
end is the same. Tokens are rounded to float16 first, as on the host; then everything is float32 in every precision of the
graph, where the host has float64: so a tie to seven digits may fall the other way.

Of patches with equal attention, as float16 makes them, the one of lower index counts as the more attended; an engine whose
TopK orders equals otherwise may let another one of them stay.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from geal_edge.config import ClusterConfig
from geal_edge.errors import UsageError
from geal_edge.export.nodes import Nodes

BEYOND = 2.0
"""Above every cosine and every attention: what is never the least."""
LEAST_RATIO = 1e-5
"""Below it the sum's own rounding would decide whether even the most attended patch stays; no patch of a frame carries less."""
TINY = 1e-30
"""Keeps 0 / 0 out of rows that have no member; a token's squared length is beyond it by far."""


def with_clusters(model: onnx.ModelProto, recipe: ClusterConfig) -> onnx.ModelProto:
    """The graph with `clusters`, `cluster_count` and `patch_cluster` behind its own outputs, which stay.

    model   of `build_graph`; float outputs are float32 whatever the precision inside

    Raises UsageError for a recipe that asks for what is not written here as a graph.
    """
    _require_expressible(recipe)
    k = recipe.clusters_per_frame
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.output}
    batch, patches, dim = (size.dim_param or size.dim_value for size in shapes["patch_features"])
    g = Nodes()
    present = _distilled(g, recipe.attention_ratio, patches)
    tokens = _tokens(g)
    member = _grouped(g, tokens, present, recipe, patches)
    label = _labels(g, member, present, k, patches)
    _answer(g, tokens, label, k, patches)

    grown = onnx.ModelProto()
    grown.CopyFrom(model)
    grown.graph.node.extend(g.nodes)
    grown.graph.initializer.extend(g.initializers.values())
    grown.graph.output.extend(
        [
            helper.make_tensor_value_info("clusters", TensorProto.FLOAT, [batch, k, dim]),
            helper.make_tensor_value_info("cluster_count", TensorProto.INT32, [batch]),
            helper.make_tensor_value_info("patch_cluster", TensorProto.INT32, [batch, patches]),
        ]
    )
    return grown


def _require_expressible(recipe: ClusterConfig) -> None:
    written = ClusterConfig()  # what stands below is the default of each
    for name in ("ratio_rule", "kmeans_metric", "kmeans_start", "downsampling"):
        asked, possible = getattr(recipe, name), getattr(written, name)
        if asked != possible:
            raise UsageError(
                f"--output clusters: {name} is {asked!r}, and in a graph there is {possible!r} alone. Leave --output out: "
                "the host groups the tokens by any recipe."
            )


def _distilled(g: Nodes, attention_ratio: float, patches: int) -> str:
    """Which patches stay: (N, 1, P) bool. Paper section 3.2, Eq. 2, by the rule `reach`."""
    attention = g.reshape("clusters.attention", "cls_attention", 0, 1, patches)
    ordered = ("clusters.attention.ordered", "clusters.attention.order")
    every = g.constant("clusters.patches", [patches], np.int64)
    g.node("TopK", "clusters.attention.topk", attention, every, outputs=ordered)
    # Summed from the least attended on: what a patch and those behind it carry is above 1 - ratio exactly where those before
    # it fall short of the ratio, and the small numbers do not get lost in a sum that is nearly 1.
    last_axis = g.constant("clusters.last_axis", 2, np.int64)
    last_axes = g.constant("clusters.last_axes", [2], np.int64)
    behind = g.node("CumSum", "clusters.attention.behind", ordered[0], last_axis, reverse=1)
    total = g.node("ReduceSum", "clusters.attention.total", attention, last_axes, keepdims=1)
    share = g.constant("clusters.rest", 1.0 - max(attention_ratio, LEAST_RATIO))
    fell_short = g.node("Greater", "clusters.stays", behind, g.node("Mul", "clusters.attention.rest", total, share))
    stays = g.node("Cast", "clusters.stays.float", fell_short, to=TensorProto.FLOAT)
    # Back into patch order: every place of `attention` is written over.
    stays = g.node("ScatterElements", "clusters.stays.patches", attention, ordered[1], stays, axis=2)
    return g.node("Greater", "clusters.present", stays, g.constant("clusters.half", 0.5))


def _tokens(g: Nodes) -> str:
    """Patch features as the host sees them: (N, P, D)."""
    half = g.node("Cast", "clusters.tokens.fp16", "patch_features", to=TensorProto.FLOAT16)
    return g.node("Cast", "clusters.tokens", half, to=TensorProto.FLOAT)


def _grouped(g: Nodes, tokens: str, present: str, recipe: ClusterConfig, patches: int) -> str:
    """K-Means by cosine, after its last assignment: (N, K, P), 1 where a patch is nearest to a centre, else 0.

    Patches that were distilled away are assigned too; they were in no mean.
    """
    k = recipe.clusters_per_frame
    weight = g.node("Cast", "clusters.present.float", present, to=TensorProto.FLOAT)
    weight = g.reshape("clusters.weight", weight, 0, patches, 1)
    staying = g.node("Mul", "clusters.tokens.staying", tokens, weight)  # (N, P, D)
    points, _ = _unit(g, "clusters.points", tokens)
    points_t = g.node("Transpose", "clusters.points.transposed", points, perm=[0, 2, 1])  # (N, D, P)
    directions = _farthest_first(g, points, points_t, present, k)  # (N, K, D)
    member = _assigned(g, "clusters.step.0", directions, points_t, k)
    for step in range(1, recipe.kmeans_steps):
        at = f"clusters.step.{step}"
        # A mean has the direction of the sum. A centre that loses all members stays where it is.
        moved, squares = _unit(g, f"{at}.moved", g.node("MatMul", f"{at}.sum", member, staying))
        occupied = g.node("Greater", f"{at}.occupied", squares, g.constant("clusters.tiny", TINY))
        directions = g.node("Where", f"{at}.directions", occupied, moved, directions)
        member = _assigned(g, at, directions, points_t, k)
    return member


def _assigned(g: Nodes, at: str, directions: str, points_t: str, k: int) -> str:
    """(N, K, P): 1 for the centre (N, K, D) that is nearest to a patch, the first of equals; else 0."""
    affinity = g.node("MatMul", f"{at}.affinity", directions, points_t)
    nearest = g.node("ArgMax", f"{at}.nearest", affinity, axis=1, keepdims=0)  # (N, P)
    depth, values = g.constant("clusters.k", k, np.int64), g.constant("clusters.out_in", [0, 1])
    return g.node("OneHot", f"{at}.member", nearest, depth, values, axis=1)


def _farthest_first(g: Nodes, points: str, points_t: str, present: str, k: int) -> str:
    """K starts: the most attended patch, then each time the one farthest from all chosen (N, K, D).

    Where all that is left are copies of chosen ones, copies start again. The first of equals gains the members, or all of
    them change over to a copy: the groups are the host's, their order may be another.
    """
    beyond = g.constant("clusters.beyond", BEYOND)
    chosen = g.node("ArgMax", "clusters.start.0", "clusters.attention", axis=2, keepdims=1)  # (N, 1, 1)
    starts = []
    nearness = ""
    for i in range(k):
        at = f"clusters.start.{i}"
        starts.append(g.node("GatherND", f"{at}.point", points, chosen, batch_dims=1))  # (N, 1, D)
        if i + 1 == k:
            break
        near = g.node("MatMul", f"{at}.near", starts[-1], points_t)  # (N, 1, P): cosines
        if i == 0:
            nearness = g.node("Where", f"{at}.nearness", present, near, beyond)
        else:
            nearness = g.node("Max", f"{at}.nearness", nearness, near)
        chosen = g.node("ArgMin", f"clusters.start.{i + 1}", nearness, axis=2, keepdims=1)
    return g.node("Concat", "clusters.starts", *starts, axis=1)


def _labels(g: Nodes, member: str, present: str, k: int, patches: int) -> str:
    """The row of each patch, clusters without a member left out, -1 = distilled away: (N, 1, P) float."""
    counts = g.node("MatMul", "clusters.counts", member, "clusters.weight")  # (N, K, 1)
    occupied = g.node("Greater", "clusters.occupied", counts, g.constant("clusters.tiny", TINY))
    occupied = g.node("Cast", "clusters.occupied.float", occupied, to=TensorProto.FLOAT)
    rank = g.node("MatMul", "clusters.rank", g.constant("clusters.lower", np.tri(k, k, -1)), occupied)  # (N, K, 1)
    rank = g.reshape("clusters.rank.row", rank, 0, 1, k)
    grouped = g.node("MatMul", "clusters.grouped", rank, member)  # (N, 1, P)

    # With K tokens or fewer each is its own cluster, in patch order.
    weight = g.reshape("clusters.weight.row", "clusters.weight", 0, 1, patches)
    place = g.node("CumSum", "clusters.place", weight, g.constant("clusters.last_axis", 2, np.int64), exclusive=1)
    total = g.node("ReduceSum", "clusters.total", weight, g.constant("clusters.last_axes", [2], np.int64), keepdims=1)
    few = g.node("LessOrEqual", "clusters.few", total, g.constant("clusters.k.float", k))
    label = g.node("Where", "clusters.label.all", few, place, grouped)
    return g.node("Where", "clusters.label", present, label, g.constant("clusters.away", -1))


def _answer(g: Nodes, tokens: str, label: str, k: int, patches: int) -> None:
    """The three outputs."""
    member = g.node("Equal", "clusters.member", label, g.constant("clusters.rows", np.arange(k).reshape(1, k, 1)))
    member = g.node("Cast", "clusters.member.float", member, to=TensorProto.FLOAT)  # (N, K, P)
    _unit(g, "clusters", g.node("MatMul", "clusters.sum", member, tokens))  # (N, K, D)
    last = g.node("ReduceMax", "clusters.label.last", label, axes=[1, 2], keepdims=0)
    count = g.node("Add", "clusters.count", last, g.constant("clusters.one", 1))
    g.node("Cast", "cluster_count", count, to=TensorProto.INT32)
    flat = g.reshape("clusters.label.flat", label, 0, patches)
    g.node("Cast", "patch_cluster", flat, to=TensorProto.INT32)


def _unit(g: Nodes, name: str, x: str) -> tuple[str, str]:
    """(the rows of (N, ?, D) made unit length, their squared lengths (N, ?, 1)); a row of zeros stays one."""
    squares = g.node("Mul", f"{name}.squares", x, x)
    axes = g.constant("clusters.last_axes", [2], np.int64)
    length = g.node("ReduceSum", f"{name}.length.squared", squares, axes, keepdims=1)
    root = g.node(
        "Sqrt", f"{name}.length", g.node("Max", f"{name}.length.positive", length, g.constant("clusters.tiny", TINY))
    )
    return g.node("Div", name, x, root), length
