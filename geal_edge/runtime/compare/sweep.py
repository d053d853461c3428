"""What else a comparison tries: GEAL with other settings, or another bundle, each chosen by itself and measured alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from geal_edge.config import PRESETS, SELECTIONS, ClusterConfig, Preset, SelectionConfig
from geal_edge.errors import UsageError
from geal_edge.runtime.compare.strategies import RECIPE

KEYS = ("attention_ratio", "clusters_per_frame", "preset", "bundle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One combination of what is swept. settings: as they were asked for; bundle: None for the comparison's own."""

    settings: tuple[tuple[str, str], ...]
    bundle: Path | None
    recipe: ClusterConfig
    config: SelectionConfig

    @property
    def name(self) -> str:
        return " ".join(["geal", *(f"{key}={value}" for key, value in self.settings)])


def variants(sweeps: Sequence[str]) -> list[Variant]:
    """All combinations of `KEY=VALUE,VALUE`. Raises UsageError for a key or value that cannot be meant.

    >>> [v.name for v in variants(["attention_ratio=0.3,0.7", "clusters_per_frame=5"])]
    ['geal attention_ratio=0.3 clusters_per_frame=5', 'geal attention_ratio=0.7 clusters_per_frame=5']
    >>> variants([])
    []
    """
    if not sweeps:
        return []
    axes: dict[str, list[str]] = {}
    for sweep in sweeps:
        key, _, values = sweep.partition("=")
        if key == "precision":
            raise UsageError(
                "--sweep precision: a bundle has one precision. Export one of each, and sweep over them: --sweep bundle=A,B"
            )
        if key not in KEYS or not all(values.split(",")):
            raise UsageError(f"--sweep {sweep}: must be KEY=VALUE,VALUE with a KEY of {', '.join(KEYS)}.")
        if key in axes:
            raise UsageError(f"--sweep {sweep}: {key} is swept already. Name all its values in one --sweep.")
        axes[key] = list(dict.fromkeys(values.split(",")))
    return [_variant(dict(zip(axes, values, strict=True))) for values in product(*axes.values())]


def _variant(settings: dict[str, str]) -> Variant:
    recipe, config = RECIPE, SelectionConfig()
    if (preset := settings.get("preset")) is not None:
        if preset not in get_args(Preset):
            raise UsageError(f"--sweep preset={preset}: must be one of {', '.join(get_args(Preset))}.")
        recipe, config = PRESETS[preset], SELECTIONS[preset]
    numbers: dict[str, Any] = {}
    for key, kind in (("attention_ratio", float), ("clusters_per_frame", int)):
        if key in settings:
            try:
                numbers[key] = kind(settings[key])
            except ValueError as error:
                raise UsageError(f"--sweep {key}={settings[key]}: must be a number.") from error
    bundle = settings.get("bundle")
    return Variant(
        settings=tuple(settings.items()),
        bundle=None if bundle is None else Path(bundle),
        recipe=replace(recipe, **numbers),
        config=config,
    )
