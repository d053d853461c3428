"""The ViT family that we read and export: its geometry, told by the tensors' own shapes, and the names they must have.

Names are those of DINO's checkpoints (timm's `vit_small_patch16_224.dino` has the same): `cls_token`, `pos_embed`,
`patch_embed.proj.*`, `blocks.<i>.{norm1,attn.qkv,attn.proj,norm2,mlp.fc1,mlp.fc2}.*`, `norm.*`, each with weight and bias.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import UsageError

Tensors: TypeAlias = dict[str, npt.NDArray[np.float32]]
"""DINO tensor name -> C-contiguous float32 array."""

HEAD_DIM = 64
"""Every DINO ViT has heads of 64; the number of heads is read from D / 64."""

LAYER_NORM_EPS = 1e-6
"""DINO's, whatever the checkpoint's config says (Hugging Face's ViTConfig defaults to 1e-12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What the tensors' shapes say of a ViT; nothing here is a choice.

    >>> VIT_S16.name, VIT_S16.heads, VIT_S16.tensor_count
    ('ViT-S/16', 6, 150)
    >>> VIT_S16.grid(448, 224)
    (14, 28)
    """

    patch_size: int
    embed_dim: int
    depth: int
    mlp_dim: int
    trained_grid: tuple[int, int]  # (rows, columns) of pos_embed

    @property
    def heads(self) -> int:
        return self.embed_dim // HEAD_DIM

    @property
    def name(self) -> str:
        """`ViT-S/16` where the width and depth are one of the family's, else the numbers themselves."""
        letter = {(192, 12): "T", (384, 12): "S", (768, 12): "B", (1024, 24): "L"}.get((self.embed_dim, self.depth))
        return f"ViT-{letter}/{self.patch_size}" if letter else f"ViT-{self.embed_dim}x{self.depth}/{self.patch_size}"

    @property
    def tensor_count(self) -> int:
        return len(self.tensor_shapes())

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of patches of an image `width` x `height` pixels; row-major is the order of all patch arrays.

        Raises UsageError where a side is not a positive multiple of the patch size.
        """
        p = self.patch_size
        if width < p or height < p or width % p or height % p:
            lower = (max(p, width // p * p), max(p, height // p * p))
            upper = (-(-max(width, p) // p) * p, -(-max(height, p) // p) * p)
            sizes = dict.fromkeys(f"{w}x{h}" for w, h in (lower, upper))
            raise UsageError(
                f"size {width}x{height} (width x height): both sides must be multiples of the patch size {p}. "
                f"Use {' or '.join(sizes)}."
            )
        return height // p, width // p

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Exactly the tensors that such a model has, in forward order."""
        d, m, p = self.embed_dim, self.mlp_dim, self.patch_size
        shapes: dict[str, tuple[int, ...]] = {
            "cls_token": (1, 1, d),
            "pos_embed": (1, 1 + self.trained_grid[0] * self.trained_grid[1], d),
            "patch_embed.proj.weight": (d, 3, p, p),
            "patch_embed.proj.bias": (d,),
        }
        for i in range(self.depth):
            block: dict[str, tuple[int, ...]] = {
                "norm1.weight": (d,),
                "norm1.bias": (d,),
                "attn.qkv.weight": (3 * d, d),
                "attn.qkv.bias": (3 * d,),
                "attn.proj.weight": (d, d),
                "attn.proj.bias": (d,),
                "norm2.weight": (d,),
                "norm2.bias": (d,),
                "mlp.fc1.weight": (m, d),
                "mlp.fc1.bias": (m,),
                "mlp.fc2.weight": (d, m),
                "mlp.fc2.bias": (d,),
            }
            shapes.update({f"blocks.{i}.{name}": shape for name, shape in block.items()})
        shapes.update({"norm.weight": (d,), "norm.bias": (d,)})
        return shapes


VIT_S16 = Geometry(patch_size=16, embed_dim=384, depth=12, mlp_dim=1536, trained_grid=(14, 14))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A checkpoint, read and checked: exactly the tensors of `geometry`, and where they came from.

    digest     `sha256:...` over the canonical tensors (sorted names, shapes, little-endian float32 bytes): the same
               weights have the same digest whatever file they came from
    origin     the file's name without its folder, or `untrained:<seed>`
    untrained  True for seeded weights: every surface that uses them must say so
    dropped    names of tensors that the file held and that the backbone does not need (a classifier head), sorted
    """

    geometry: Geometry
    tensors: Tensors = field(repr=False)
    digest: str
    origin: str
    untrained: bool = False
    dropped: tuple[str, ...] = ()
