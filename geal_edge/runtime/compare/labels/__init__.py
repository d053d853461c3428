"""What selections are worth where labels exist: what they found of what people labelled, and what simple models learn of it.

labels -> reading.py (annotation.py, masks.py, boxes.py) -> found.py and probes.py, for every choice and budget -> table.py
"""

from collections.abc import Sequence
from pathlib import Path

from geal_edge.errors import UsageError
from geal_edge.runtime.compare.choice import Choice
from geal_edge.runtime.compare.labels.found import found_at, rarest
from geal_edge.runtime.compare.labels.probes import Probes
from geal_edge.runtime.compare.labels.reading import Labels, read_labels
from geal_edge.runtime.compare.labels.table import LabelResult, LabelTable
from geal_edge.runtime.features import Features
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.pool import Pool
from geal_edge.runtime.poolframe import PoolFrame


def evaluate(
    pool: Pool,
    choices: Sequence[Choice],
    budgets: Sequence[int],
    labels_path: Path,
    *,
    class_list: Path | None = None,
    features: Features | None = None,
    held_out: Sequence[PoolFrame] = (),
    watch: Observer,
) -> LabelTable:
    """What the first b frames of every choice hold, for each budget b, of what is labelled in the pool.

    choices      one of a strategy and seed; or, where the selection of a smaller budget is not the beginning of that of a
                 larger one (evenly in time, streams), one for every budget, in the order of the budgets
    budgets      ascending
    labels_path  masks, VOC XML, COCO JSON or YOLO text (reading.py); frames without labels are counted and said
    class_list   names (and colours) of the classes; default: the one that lies beside the labels
    features     the stored features of the pool and of `held_out`
    held_out     frames that nothing was chosen from (`probes.hold_out`); with both, probes are trained on what was selected

    Raises UsageError for labels that cannot be read or belong to no frame, MissingDependency without the extra `compare`.
    """
    selections = selections_at(choices, budgets)
    asked = features if held_out else None
    grid = None if asked is None else asked.grid
    labels = read_labels(labels_path, [*pool.frames, *held_out], grid=grid, class_list=class_list)
    of_pool = Labels(
        kind=labels.kind,
        classes=labels.classes,
        frames={index: label for index, label in labels.frames.items() if index < len(pool.frames)},
    )
    if not of_pool.frames:
        raise UsageError(f"{labels_path}: all of its labels belong to frames that were held out.")
    unlabelled = len(pool.frames) - len(of_pool.frames)
    if unlabelled:
        watch.warn(
            f"{unlabelled} of {len(pool.frames)} frames have no labels in {labels_path}: they count as nothing found."
        )
    probes = None
    if asked is not None:
        ids = [frame.id for frame in [*pool.frames, *held_out]]
        by_id = {ids[index]: label for index, label in labels.frames.items()}
        probes = Probes(asked, by_id, [frame.id for frame in held_out])
    # Of all that is labelled, so that they are the same whatever is held out.
    rare = [number for number in rarest(labels) if any(label.instances[number] for label in of_pool.frames.values())]
    results = []
    watch.begin("comparing with the labels", len(selections))
    for choice, budget in selections:
        selected = [index for unit in choice.order[:budget] for index in pool.units[unit]]
        values = found_at(of_pool, selected, rare)
        if probes is not None:
            values |= probes.scores([pool.frames[index].id for index in selected])
        results.append(LabelResult(strategy=choice.strategy, seed=choice.seed, budget=budget, values=values))
        watch.advance()
    return LabelTable(
        kind=labels.kind,
        frames=len(pool.frames),
        labelled=len(of_pool.frames),
        held_out=0 if probes is None else len(labels.frames) - len(of_pool.frames),
        classes=tuple(name for name in labels.classes if name),
        rare=tuple(labels.classes[number] for number in rare),
        results=tuple(results),
    )


def selections_at(choices: Sequence[Choice], budgets: Sequence[int]) -> list[tuple[Choice, int]]:
    """Which choice is meant at which budget, as `evaluate` says.

    >>> even = [Choice(strategy="uniform", seed=None, order=order) for order in ((1,), (0, 2))]
    >>> [(choice.order, budget) for choice, budget in selections_at(even, [1, 2])]
    [((1,), 1), ((0, 2), 2)]
    """
    if not choices or min(budgets, default=0) < 1:
        raise UsageError("an evaluation takes at least one choice, and budgets of at least 1.")
    drawn: dict[tuple[str, int | None], list[Choice]] = {}
    for choice in choices:
        drawn.setdefault((choice.strategy, choice.seed), []).append(choice)
    found = []
    for (strategy, seed), orders in drawn.items():
        if len(orders) not in (1, len(budgets)):
            raise UsageError(
                f"{len(orders)} choices of {strategy} with seed {seed}, for {len(budgets)} budgets: give one, or one for each."
            )
        found += [(orders[i % len(orders)], budget) for i, budget in enumerate(budgets)]
    return found
