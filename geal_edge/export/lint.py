"""The operator rules of TensorRT 10.0 to 10.3, as a check of our own: a graph that passes needs no GPU to be trusted to parse.

TensorRT-RTX parses as TensorRT 11 does, which takes more. What is here is what the older parsers on vehicles refuse. All
rules are about graphs that geal-edge writes: an operator that none of them has is refused by name.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from geal_edge.export.graph import OPSET

OPERATORS = frozenset(
    "Abs Add ArgMax ArgMin Cast Clip Concat Conv CumSum DequantizeLinear Div Equal Erf Exp Expand Flatten Gather "
    "GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity LayerNormalization Less LessOrEqual Log MatMul Max "
    "Min Mul Neg Not OneHot Pad Pow QuantizeLinear ReduceMax ReduceMean ReduceMin ReduceSum Reshape ScatterElements Slice "
    "Softmax Split Sqrt Squeeze Sub Tile TopK Transpose Unsqueeze Where".split()
)

TOPK_LIMIT = 3840


def lint(model: onnx.ModelProto) -> list[str]:
    """A sentence for each rule that is broken; empty where TensorRT 10.0 to 10.3 should take the graph."""
    values = _Values(model)
    return [*_of_the_file(model), *(fault for node in model.graph.node for fault in _of_a_node(node, values))]


class _Values:
    """What is known of a graph's values without running it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}

    def array(self, name: str) -> npt.NDArray[Any] | None:
        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None


def _of_the_file(model: onnx.ModelProto) -> Iterator[str]:
    domains = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    if domains != {"ai.onnx": OPSET}:
        yield f"operator sets are {domains}, expected ai.onnx {OPSET} alone"
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.DOUBLE, TensorProto.UINT8):
            yield f"{tensor.name}: is stored as {TensorProto.DataType.Name(tensor.data_type)}, which no layer takes"


def _of_a_node(node: onnx.NodeProto, values: _Values) -> Iterator[str]:
    at = f"{node.op_type} {node.name or node.output[0]}"
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.domain not in ("", "ai.onnx"):
        yield f"{at}: is of {node.domain}, expected a standard operator"
        return
    if node.op_type not in OPERATORS:
        yield f"{at}: is not among the operators of our graphs ({len(OPERATORS)} known)"
    if node.op_type != "Cast" and any(values.inputs.get(name) == TensorProto.UINT8 for name in node.input):
        yield f"{at}: takes uint8, expected a Cast before it"
    if node.op_type == "LayerNormalization" and len(node.output) != 1:
        yield f"{at}: has {len(node.output)} outputs, expected one"
    if node.op_type == "TopK":
        k = values.array(node.input[1])
        if k is None or int(k.max()) >= TOPK_LIMIT:
            yield f"{at}: k must be stored and below {TOPK_LIMIT}"
        if attributes.get("sorted", 1) != 1:
            yield f"{at}: is unsorted, expected sorted = 1"
    if node.op_type == "CumSum" and values.array(node.input[1]) is None:
        yield f"{at}: its axis is computed, expected a stored one"
    if node.op_type in ("Reshape", "Pad", "Slice", "Expand", "Tile") and any(
        values.array(name) is None for name in node.input[1:] if name
    ):
        yield f"{at}: its shape is computed, expected a stored one"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        yield from _of_a_pair(at, node, values)


def _of_a_pair(at: str, node: onnx.NodeProto, values: _Values) -> Iterator[str]:
    scale = values.array(node.input[1])
    if scale is None or scale.dtype != np.float32 or not (scale.astype(np.float64) > 0).all():
        yield f"{at}: its scale must be stored, float32 and positive"
    point = values.array(node.input[2]) if len(node.input) > 2 else None
    if point is None or point.dtype != np.int8 or point.any():
        yield f"{at}: its zero point must be stored, int8 and 0"
    if node.op_type == "DequantizeLinear" and node.input[0] in values.stored:
        yield f"{at}: its input is stored already quantised, expected float32 and a QuantizeLinear"
