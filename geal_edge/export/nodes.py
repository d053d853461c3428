"""Nodes and initialisers in the order in which they are asked for: what every part of a graph is put together with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class Nodes:
    """A graph that grows. A node and the value that it puts out have one name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def node(self, op: str, name: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Append a node; its output has its name, or `outputs` where it has several."""
        self.nodes.append(helper.make_node(op, inputs, outputs or [name], name, **attributes))
        return name

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """An initialiser, stored once however often it is used: a name stands for one value."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(value, dtype, order="C"), name)
        return name

    def reshape(self, name: str, x: str, *shape: int) -> str:
        """0 copies the dimension of x: the batch size never stands in the graph."""
        return self.node("Reshape", name, x, self.constant(f"{name}.shape", shape, np.int64))
