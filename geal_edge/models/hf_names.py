"""The names that Hugging Face's ViTModel gives to the tensors of a ViT, and where they differ from DINO's.

The numbers are the same; only query, key and value are stored apart. What a config.json beside the file says is not read:
its LayerNorm epsilon (1e-12) is the library's default and not what DINO was trained with.
"""

import re
from collections.abc import Iterable

PREFIX = "vit."
"""Before every name of the backbone where the file is that of ViTForImageClassification."""

HEADS = ("pooler.", "classifier.")
"""What stands behind the backbone: the pooler is random unless somebody trained it, the classifier is a head."""

BLOCKS = "encoder.layer."

_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_IN_A_BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}


def are_hugging_face(names: Iterable[str]) -> bool:
    """Whether a file with these names speaks of a ViT in Hugging Face's way."""
    return any(re.match(rf"({re.escape(PREFIX)})?(embeddings\.|{re.escape(BLOCKS)})", name) for name in names)


def in_hugging_face(name: str) -> tuple[str, ...]:
    """Under which names the file holds what DINO calls `name`: one, or query, key and value, to be joined in this order.

    >>> in_hugging_face("norm.bias")
    ('layernorm.bias',)
    >>> in_hugging_face("blocks.3.attn.qkv.bias")[1]
    'encoder.layer.3.attention.attention.key.bias'
    """
    if name in _OUTSIDE:  # the two that are neither weight nor bias
        return (_OUTSIDE[name],)
    where, _, kind = name.rpartition(".")
    if where in _OUTSIDE:
        return (f"{_OUTSIDE[where]}.{kind}",)
    _, block, part = where.split(".", 2)
    return tuple(f"{BLOCKS}{block}.{theirs}.{kind}" for theirs in _IN_A_BLOCK[part])
