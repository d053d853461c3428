"""Two ViTs small enough for a test, and ONNX Runtime's answer to a graph that is still in memory."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD
from geal_edge.export.graph import serialize
from geal_edge.models.vit import Geometry, Weights
from geal_edge.models.weights import weights_digest

NORM: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}

TINY16 = Geometry(patch_size=16, embed_dim=64, depth=2, mlp_dim=128, trained_grid=(4, 4))
TINY8 = Geometry(patch_size=8, embed_dim=128, depth=3, mlp_dim=256, trained_grid=(5, 5))


def tiny_weights(geometry: Geometry = TINY16, seed: int = 0) -> Weights:
    """Seeded weights in which everything matters: no bias is 0, no gain is 1, activations are of the order of 1.

    (`untrained` weights of this size would let a wrong GELU or a dropped bias pass unseen.)
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in geometry.tensor_shapes().items():
        values = rng.standard_normal(shape)
        if "norm" in name and name.endswith("weight"):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.2 * values
        elif name.endswith("weight"):
            values /= np.sqrt(np.prod(shape[1:]))
        tensors[name] = values.astype(np.float32)
    return Weights(
        geometry=geometry,
        tensors=tensors,
        digest=weights_digest(tensors),
        origin=f"untrained:{seed}",
        untrained=True,
    )


def random_frames(count: int, width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(count, height, width, 3) uint8, every pixel by itself."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def run_onnx(model: onnx.ModelProto, image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """What ONNX Runtime answers on the CPU, output name -> array."""
    return run_feeds(model, {"image": image})


def run_feeds(model: onnx.ModelProto, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The same of a graph with other inputs."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.inter_op_num_threads = 1
    options.log_severity_level = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
