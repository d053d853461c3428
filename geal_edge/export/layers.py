"""The roles of a graph's nodes in a ViT, told from their names: what float16 lowers or leaves in float32 together.

`qkv` is that layer of every block but the last. `cls_attention` is what the last block is cut to, and ends in that output;
`cls_embedding` is the rest of the last block. Nodes that only move numbers have no role: they take what comes.
"""

import re

import onnx

MOVES = frozenset({"Gather", "Pad", "Reshape", "Slice", "Split", "Transpose"})
"""Operators that compute nothing: their output has the type of their first input."""

_PATTERNS = (
    ("layer_norm", r"norm|(.*\.)?norm\d?|patch_features"),
    ("residual", r"embedding|.*\.residual"),
    ("patch_embed", r"patch_embed.*"),
    ("attention", r".*\.attn\.(qk|scores|mix)"),
    ("softmax", r".*\.attn\.softmax"),
    ("qkv", r".*\.attn\.qkv(\.matmul)?"),
    ("proj", r".*\.attn\.proj(\.matmul)?"),
    ("fc1", r".*\.mlp\.fc1(\.matmul)?"),
    ("gelu", r".*\.mlp\.gelu(\..*)?"),
    ("fc2", r".*\.mlp\.fc2(\.matmul)?"),
)


def role_of(node: onnx.NodeProto, depth: int) -> str | None:
    """A node's role in a ViT of `depth` blocks, or None where it has none: it moves numbers, or works on pixels.

    >>> role_of(onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "blocks.3.mlp.fc1.matmul"), 12)
    'fc1'
    >>> role_of(onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "blocks.11.mlp.fc1.matmul"), 12)
    'cls_embedding'
    """
    if node.op_type in MOVES or node.name.startswith("pixels"):
        return None
    last = f"blocks.{depth - 1}."
    if node.name == "cls_embedding" or node.name.startswith((f"{last}mlp", f"{last}norm2", f"{last}cls")):
        return "cls_embedding"
    if re.match(rf"{re.escape(last)}attn\.(v|proj|residual|mix|softmax)", node.name):
        return "cls_embedding"
    if node.name == "cls_attention" or node.name.startswith(f"{last}attn"):
        return "cls_attention"
    return next((role for role, pattern in _PATTERNS if re.fullmatch(pattern, node.name)), None)
