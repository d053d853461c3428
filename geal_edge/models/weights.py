"""Where weights come from: a checkpoint file or a seed -> exactly the tensors of a DINO ViT, float32, with a digest.

Files: DINO's, timm's or Hugging Face's names in .safetensors or in torch's own files, zip or legacy, and DINO's full
checkpoint; torch is not needed and no code of a file is ever run. The geometry is read from the tensors' shapes; what is
missing, unexpected or misshapen is refused, so that a network that was only half loaded can never pass for a trained one.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geal_edge.errors import UsageError, WeightsError, WeightsMismatch
from geal_edge.models import hf_names
from geal_edge.models.checkpoint import open_checkpoint
from geal_edge.models.stored import ACCEPTED, FLOAT_BYTES, StoredTensor
from geal_edge.models.vit import HEAD_DIM, VIT_S16, Geometry, Tensors, Weights

UNTRAINED = "untrained:"
INIT_STD = 0.02
"""DINO's initialisation. It truncates at +-2, a hundred deviations away: a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How a file calls the tensors of the backbone.

    in_file   DINO's name -> the file's: one, or several that are joined along their first side
    prefixes  what may stand before every name, outermost first
    blocks    what stands before a block's number
    heads     how the names of what no backbone needs begin
    """

    in_file: Callable[[str], tuple[str, ...]]
    prefixes: tuple[str, ...]
    blocks: str
    heads: tuple[str, ...]


DINO = Naming(in_file=lambda name: (name,), prefixes=("module.", "backbone."), blocks="blocks.", heads=("head.",))
HUGGING_FACE = Naming(
    in_file=hf_names.in_hugging_face,
    prefixes=(hf_names.PREFIX,),
    blocks=hf_names.BLOCKS,
    heads=hf_names.HEADS,
)


def load_weights(spec: str | Path) -> Weights:
    """The weights that `spec` names: a checkpoint file, or `untrained:SEED` for a seeded ViT-S/16.

    float16, bfloat16 and float64 tensors become float32. A classifier or projection head (`head.*`; in a Hugging Face
    file `classifier.*` and `pooler.*`) is dropped and listed in `dropped` under the file's names. Other names lose
    `module.` and `backbone.` (`vit.`); a full DINO checkpoint gives its teacher.

    Raises UsageError (a seed that is none), MissingDependency (safetensors), UnsafeCheckpoint (asks to run code),
    WeightsMismatch (not exactly the tensors of a DINO ViT), else WeightsError (absent, damaged, not finite).
    """
    if str(spec).startswith(UNTRAINED):
        return untrained(_seed(str(spec)))
    path = Path(spec)
    with open_checkpoint(path) as stored:
        naming = HUGGING_FACE if hf_names.are_hugging_face(stored) else DINO
        backbone, dropped = _backbone(stored, naming, path)
        geometry = _geometry(backbone, naming, path)
        _check(backbone, geometry, naming, path)
        tensors = {name: _read(backbone, naming.in_file(name)) for name in geometry.tensor_shapes()}
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise WeightsError(
                f"{path}: tensor '{name}' has values that are not finite (NaN, or beyond float32). "
                "Its training failed or the file is damaged: use another checkpoint, or download it again."
            )
    return Weights(
        geometry=geometry,
        tensors=tensors,
        digest=weights_digest(tensors),
        origin=path.name,
        dropped=tuple(sorted(dropped)),
    )


def untrained(seed: int, geometry: Geometry = VIT_S16) -> Weights:
    """Seeded weights of a true geometry, for trials where no checkpoint is at hand: no training taught them anything.

    As DINO starts its own training: biases 0, LayerNorm weights 1, the patch embedding's weight uniform within
    +-1/sqrt(3 p^2), everything else normal with mean 0 and deviation INIT_STD; drawn in the order of
    `geometry.tensor_shapes()` from numpy's default_rng(seed).

    Enough for a trial: tokens tell patches apart by colour and texture (cosines from -0.5 to 1 inside a street scene).
    CLS attends almost evenly (0.9 to 1.1 of the mean), so that attention_ratio 0.5 keeps about half of the patches.

    >>> weights = untrained(7)
    >>> weights.origin, weights.untrained
    ('untrained:7', True)
    """
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, shape in geometry.tensor_shapes().items():
        if name.endswith("bias"):
            tensors[name] = np.zeros(shape, np.float32)
        elif len(shape) == 1:
            tensors[name] = np.ones(shape, np.float32)
        elif name == "patch_embed.proj.weight":
            bound = 1.0 / math.sqrt(math.prod(shape[1:]))
            tensors[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        else:
            tensors[name] = (INIT_STD * rng.standard_normal(shape)).astype(np.float32)
    return Weights(
        geometry=geometry, tensors=tensors, digest=weights_digest(tensors), origin=f"{UNTRAINED}{seed}", untrained=True
    )


def weights_digest(tensors: Tensors) -> str:
    """`sha256:<hex>` over names in sorted order, each with its shape and its little-endian float32 bytes in C order.

    The same weights have the same digest whatever file they came from, and in whatever order.

    >>> weights_digest({"norm.bias": np.zeros(2, np.float32)})[:20]
    'sha256:...'
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {'x'.join(map(str, tensor.shape))}\n".encode())
        sha.update(np.ascontiguousarray(tensor, "<f4").data)
    return f"sha256:{sha.hexdigest()}"


def _seed(spec: str) -> int:
    digits = spec.removeprefix(UNTRAINED)
    if not re.fullmatch(r"[0-9]{1,18}", digits):
        raise UsageError(f"{spec}: the seed must be a number of at most 18 digits, as in `{UNTRAINED}0`.")
    return int(digits)


def _backbone(
    stored: Mapping[str, StoredTensor], naming: Naming, path: Path
) -> tuple[dict[str, StoredTensor], list[str]]:
    """The backbone's tensors under the file's names without prefixes, and the full names of those that belong to a head."""
    backbone: dict[str, StoredTensor] = {}
    dropped: list[str] = []
    for full_name, tensor in stored.items():
        name = full_name
        for prefix in naming.prefixes:
            name = name.removeprefix(prefix)
        if name.startswith(naming.heads) and name.isascii() and name.isprintable():
            dropped.append(full_name)
        elif name in backbone:
            raise WeightsMismatch(f"{path}: two tensors are both {ascii(name)[:80]} without their prefixes. {ACCEPTED}")
        else:
            backbone[name] = tensor
    return backbone, dropped


def _geometry(backbone: Mapping[str, StoredTensor], naming: Naming, path: Path) -> Geometry:
    """What the shapes of three tensors and the number of blocks say; WeightsMismatch where they say nothing sensible."""
    (patches,), (positions,), (mlp,) = map(
        naming.in_file, ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    )
    telling = {patches: 4, positions: 3, mlp: 2}  # name -> sides
    absent = [name for name in telling if name not in backbone]
    if absent:
        raise WeightsMismatch(
            f"{path}: not a DINO ViT: it lacks {_listed(absent)} and has {_listed(list(backbone)) or 'no tensors'}. "
            f"{ACCEPTED}"
        )
    for name, sides in telling.items():
        if len(backbone[name].shape) != sides:
            raise WeightsMismatch(f"{path}: '{name}' has shape {backbone[name].shape}, not {sides} sides. {ACCEPTED}")
    embed_dim, _, patch_size, _ = backbone[patches].shape
    mlp_dim = backbone[mlp].shape[0]
    tokens = backbone[positions].shape[1]
    side = math.isqrt(max(tokens - 1, 0))
    in_a_block = re.compile(rf"{re.escape(naming.blocks)}([0-9]+)\.")
    depth = len({block[1] for block in map(in_a_block.match, backbone) if block})
    faults = []
    if embed_dim < HEAD_DIM or embed_dim % HEAD_DIM:
        faults.append(f"its width {embed_dim} is not a multiple of {HEAD_DIM}, the size of a head")
    if side < 1 or side * side != tokens - 1:
        faults.append(f"its position embedding has {tokens} tokens, not 1 for CLS and a square grid")
    if patch_size < 1:
        faults.append("its patches have no size")
    if mlp_dim < 1:
        faults.append("its MLP has no width")
    if depth < 2:
        faults.append(f"it has {depth} block, and features are those of the last but one")
    if faults:
        raise WeightsMismatch(f"{path}: not a DINO ViT: {'; '.join(faults)}. {ACCEPTED}")
    return Geometry(patch_size=patch_size, embed_dim=embed_dim, depth=depth, mlp_dim=mlp_dim, trained_grid=(side, side))


def _check(backbone: Mapping[str, StoredTensor], geometry: Geometry, naming: Naming, path: Path) -> None:
    """WeightsMismatch unless the file's tensors are exactly those of `geometry`, all floating point."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in geometry.tensor_shapes().items():
        parts = naming.in_file(name)
        expected.update(dict.fromkeys(parts, (shape[0] // len(parts), *shape[1:])))
    misshapen = [
        f"{name} is {backbone[name].dtype} {backbone[name].shape} and must be floating point {shape}"
        for name, shape in expected.items()
        if name in backbone and (backbone[name].shape != shape or backbone[name].dtype not in FLOAT_BYTES)
    ]
    problems = {
        "missing": [name for name in expected if name not in backbone],
        "unexpected": sorted(name for name in backbone if name not in expected),
        "misshapen": misshapen,
    }
    if any(problems.values()):
        lists = "; ".join(f"{kind} ({len(names)}): {_listed(names)}" for kind, names in problems.items() if names)
        raise WeightsMismatch(
            f"{path}: its shapes say {geometry.name}, but not all its tensors are. {lists}. {ACCEPTED}"
        )


def _read(backbone: Mapping[str, StoredTensor], parts: tuple[str, ...]) -> npt.NDArray[np.float32]:
    arrays = [backbone[name].read() for name in parts]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _listed(names: list[str]) -> str:
    """The first ten, in ASCII whatever a file calls its tensors, and how many more there are."""
    shown = ", ".join(
        name if name.isascii() and name.isprintable() else ascii(name) for name in (n[:120] for n in names[:10])
    )
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
