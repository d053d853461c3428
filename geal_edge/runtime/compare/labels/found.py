"""What a selection found of what was labelled: instances, classes, and how much of the rarest ones."""

from collections.abc import Sequence

import numpy as np

from geal_edge.runtime.compare.labels.annotation import FrameLabels
from geal_edge.runtime.compare.labels.reading import Labels

RARE = 3
"""How many classes count as the rarest."""


def rarest(labels: Labels) -> tuple[int, ...]:
    """The `RARE` classes that fewest of the labelled frames hold, rarest first; those in none or in all are not among them.

    By frames and not by pixels: a class that is small but in every frame, as poles are, need not be looked for. Of equal ones
    the smaller in area comes first.
    """
    instances = np.array([frame.instances > 0 for frame in labels.frames.values()])
    holding = instances.sum(axis=0)
    area = np.sum([frame.area for frame in labels.frames.values()], axis=0)
    order = sorted(range(len(labels.classes)), key=lambda number: (holding[number], area[number]))
    return tuple(number for number in order if 0 < holding[number] < len(instances))[:RARE]


def found_at(labels: Labels, selected: Sequence[int], rare: Sequence[int]) -> dict[str, float]:
    """What the selected frames (indices) hold of all that is labelled.

    labelled        of them
    classes         of which they hold an instance
    instances       in them (Fig. 9 of the paper)
    rare_area       share of the rarest classes' pixels (of boxes: area) that they hold, mean over those classes
    rare_instances  the same of their instances
    """
    everything = _sum(list(labels.frames.values()), labels)
    selection = [labels.frames[index] for index in selected if index in labels.frames]
    here = _sum(selection, labels)
    values = {
        "labelled": float(len(selection)),
        "classes": float((here.instances > 0).sum()),
        "instances": float(here.instances.sum()),
    }
    if rare:
        chosen = list(rare)
        values["rare_area"] = float((here.area[chosen] / everything.area[chosen]).mean())
        values["rare_instances"] = float((here.instances[chosen] / everything.instances[chosen]).mean())
    return values


def _sum(frames: Sequence[FrameLabels], labels: Labels) -> FrameLabels:
    instances, area = np.zeros(len(labels.classes), np.int64), np.zeros(len(labels.classes))
    for frame in frames:
        instances += frame.instances
        area += frame.area
    return FrameLabels(instances=instances, area=area)
