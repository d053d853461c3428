"""The float32 graph in a lower precision. The precision lives in the graph: no engine needs to be told, and each gives the same.

    fp16          float16 inside, with islands of float32; strongly typed, for GPUs
    int8          symmetric Q/DQ pairs around the matrices: one file for ONNX Runtime and TensorRT
    int8-dynamic  matrices in int8, ranges taken from each frame as it comes; ONNX Runtime on CPUs alone

Inputs and outputs stay uint8 and float32. What is not lowered stays float32 everywhere.

int8 is the form that TensorRT 10 and 11 take: int8 on both sides, zero point 0, one scale per column of a matrix, float32
weights with a Q/DQ pair of their own, no quantised bias. The pairs are written here rather than by onnxruntime.quantization:
its form changes with its version, and it takes the ranges of activations anew for every set of layers.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from geal_edge.errors import MissingDependency, ParityError
from geal_edge.export.layers import MOVES

Lowers = Callable[[onnx.NodeProto], bool]
"""Whether a node is among those to lower."""

Ranges = Mapping[str, float]
"""Name of a value in the graph -> the largest magnitude that int8 is to hold of it."""

INT8_LEVELS = 127  # -127 .. 127: symmetric, so -128 is left out


def to_fp16(model: onnx.ModelProto, lowers: Lowers) -> onnx.ModelProto:
    """float16 for every node that `lowers` names, with a Cast where two types meet; outputs stay float32.

    Raises ParityError where a number of the checkpoint is beyond float16.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kinds: dict[str, int] = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    outputs = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    halves: dict[str, onnx.TensorProto] = {}
    casts: set[str] = set()

    def as_kind(name: str, kind: int) -> str:
        """The name under which a float value is at hand in the type `kind`."""
        if kinds.get(name) not in (TensorProto.FLOAT, TensorProto.FLOAT16) or kinds[name] == kind:
            return name
        own = f"{name}.{'fp16' if kind == TensorProto.FLOAT16 else 'fp32'}"
        if name in stored:
            halves[own] = _half(stored[name], own)
        elif own not in casts:
            nodes.append(helper.make_node("Cast", [name], [own], own, to=kind))
            casts.add(own)
        kinds[own] = kind
        return own

    for original in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if node.op_type == "Cast":
            kind = next(a.i for a in node.attribute if a.name == "to")
        elif node.op_type in MOVES:
            kind = kinds[node.input[0]]
        else:
            kind = TensorProto.FLOAT16 if lowers(node) else TensorProto.FLOAT
            node.input[:] = [as_kind(name, kind) for name in original.input]
        nodes.append(node)
        for i, name in enumerate(original.output):
            if name in outputs and kind == TensorProto.FLOAT16:
                node.output[i] = f"{name}.fp16"
                nodes.append(helper.make_node("Cast", [node.output[i]], [name], f"{name}.fp32", to=TensorProto.FLOAT))
                kind = TensorProto.FLOAT
            kinds[name] = kind
    return _rebuilt(model, nodes, [*stored.values(), *halves.values()])


def to_int8(model: onnx.ModelProto, lowers: Lowers, ranges: Ranges) -> onnx.ModelProto:
    """Q/DQ pairs around both inputs of every matrix product and convolution that `lowers` names and that has weights."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    zero = numpy_helper.from_array(np.zeros((), np.int8), "int8.zero")
    nodes: list[onnx.NodeProto] = []
    added: dict[str, onnx.TensorProto] = {}
    paired: set[str] = set()

    def pair(name: str, scale: npt.NDArray[np.float32], axis: int | None) -> str:
        """Q and DQ behind a value, once however often it is used."""
        if name not in paired:
            paired.add(name)
            added[f"{name}.scale"] = numpy_helper.from_array(scale, f"{name}.scale")
            point = zero
            attributes: dict[str, Any] = {}
            if axis is not None:
                point = numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}.zero")
                attributes = {"axis": axis}
            added[point.name] = point
            for op, source, target in (("QuantizeLinear", name, "int8"), ("DequantizeLinear", f"{name}.int8", "near")):
                inputs, output = [source, f"{name}.scale", point.name], f"{name}.{target}"
                nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return f"{name}.near"

    for original in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if lowers(node) and has_weights(node, stored):
            x, weight = original.input[:2]
            axis = 1 if node.op_type == "MatMul" else 0  # columns of (in, out), or filters of (out, in, p, p)
            values = np.abs(numpy_helper.to_array(stored[weight]))
            largest = values.max(axis=tuple(i for i in range(values.ndim) if i != axis))
            node.input[0] = pair(x, np.array(_scale(ranges[x]), np.float32), None)
            node.input[1] = pair(weight, _scale(largest), axis)
        nodes.append(node)
    return _rebuilt(model, nodes, [*stored.values(), *added.values()])


def to_int8_dynamic(model: onnx.ModelProto, lowers: Lowers) -> onnx.ModelProto:
    """Matrix products with weights in int8, for ONNX Runtime's CPU. Raises MissingDependency.

    Weights have 7 bits: on processors without VNNI the sum of two 8-bit products does not fit the 16 bits that it is given.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingDependency(
            "ONNX Runtime is not installed, and int8-dynamic is made with it. "
            "Install it with: pip install 'geal-edge[export,cpu]'"
        ) from error
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [n.name for n in model.graph.node if n.op_type == "MatMul" and lowers(n) and has_weights(n, stored)]
    if not names:  # the library takes an empty list for all
        return model
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / "model.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=names,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)


def with_ranges(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The graph that answers, in place of its own outputs, the largest magnitude of each of these values, as a scalar."""
    ranging = onnx.ModelProto()
    ranging.CopyFrom(model)
    del ranging.graph.output[:]
    for name in names:
        ranging.graph.node.append(helper.make_node("Abs", [name], [f"{name}.magnitude"]))
        ranging.graph.node.append(helper.make_node("ReduceMax", [f"{name}.magnitude"], [f"{name}.largest"], keepdims=0))
        ranging.graph.output.append(helper.make_tensor_value_info(f"{name}.largest", TensorProto.FLOAT, []))
    return ranging


def has_weights(node: onnx.NodeProto, stored: Iterable[str]) -> bool:
    """A matrix product or convolution of a value with a matrix of the checkpoint."""
    return node.op_type in ("MatMul", "Conv") and node.input[1] in stored


@contextmanager
def _quiet() -> Iterator[None]:
    """The library advises, on the root logger, to optimise the graph first: into operators that are ONNX Runtime's own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _scale(largest: Any) -> Any:
    # A column of zeros would have the scale 0, which divides 0 by 0.
    return np.maximum(np.asarray(largest, np.float32) / INT8_LEVELS, np.finfo(np.float32).tiny).astype(np.float32)


def _half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ParityError(f"{tensor.name}: holds {np.abs(values).max():g}, beyond float16.")
    return numpy_helper.from_array(half, name)


def _rebuilt(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], tensors: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    """The model with other nodes, and of the tensors those that they use."""
    used = {name for node in nodes for name in node.input}
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    del lowered.graph.node[:], lowered.graph.initializer[:]
    lowered.graph.node.extend(nodes)
    lowered.graph.initializer.extend(tensor for tensor in tensors if tensor.name in used)
    return lowered
