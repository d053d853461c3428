"""What labels say of every strategy at every budget, for machines and as plain text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from geal_edge.runtime.compare.cover import Spread, spread

COLUMNS = {
    "labelled": "labelled",
    "classes": "classes",
    "instances": "instances",
    "rare_area": "rare area",
    "rare_instances": "rare instances",
    "knn": "k-NN",
    "logistic": "logistic",
}
_SHARES = ("rare_area", "rare_instances", "knn", "logistic")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelResult:
    """One selection: values by the names of `COLUMNS` (found.py and probes.py say what they are)."""

    strategy: str
    seed: int | None
    budget: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """kind: the labels' format; frames, labelled: of the pool; held_out: labelled frames that the probes were tested on, 0 where
    there were no probes; rare: the rarest classes, rarest first."""

    kind: str
    frames: int
    labelled: int
    held_out: int
    classes: tuple[str, ...]
    rare: tuple[str, ...]
    results: tuple[LabelResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """`results` is strategy -> budget -> column -> median, p10 and p90 over the seeds."""
        return {
            "labels": self.kind,
            "frames": self.frames,
            "labelled": self.labelled,
            "unlabelled": self.frames - self.labelled,
            "held_out": self.held_out,
            "classes": list(self.classes),
            "rare": list(self.rare),
            "results": summary(self.results),
        }

    def text(self) -> str:
        """A block for each budget, a line for each strategy."""
        rarest = ", ".join(self.rare) or "none"
        lines = [f"{self.kind}: {self.labelled} of {self.frames} frames are labelled, {len(self.classes)} classes"]
        lines.append(f"rarest, by the frames that hold them: {rarest}")
        if self.held_out:
            lines.append(f"probes are tested on {self.held_out} frames that were held out")
        return "\n".join([*lines, text_of(self.results)])


def summary(results: Sequence[LabelResult]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """strategy -> budget -> column -> median, 10th and 90th percentile over the selections there.

    >>> drawn = [LabelResult(strategy="random", seed=s, budget=5, values={"instances": 2.0 * s}) for s in range(3)]
    >>> summary(drawn)
    {'random': {'5': {'instances': {'median': 2.0, 'p10': 0.4, 'p90': 3.6}}}}
    """
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for result in results:
        columns = values.setdefault(result.strategy, {}).setdefault(str(result.budget), {})
        for name, value in result.values.items():
            columns.setdefault(name, []).append(value)
    return {
        strategy: {
            budget: {name: _rounded(spread(column)) for name, column in columns.items()}
            for budget, columns in by_budget.items()
        }
        for strategy, by_budget in values.items()
    }


def text_of(results: Sequence[LabelResult]) -> str:
    """The blocks of a table; 'a (b to c)' are the median and the 10th and 90th percentile over the seeds."""
    summed = summary(results)
    all_labelled = all(result.values["labelled"] == result.budget for result in results)
    names = [name for name in COLUMNS if any(name in result.values for result in results)]
    names = names[1:] if all_labelled else names
    width = max(len(strategy) for strategy in summed)
    # Thousands with their spread are long; cells of a fixed width would run into each other.
    words = [_words(name, columns[name]) for by in summed.values() for columns in by.values() for name in names]
    cell = 2 + max(map(len, [*words, *(COLUMNS[name] for name in names)]))
    lines = []
    for budget in dict.fromkeys(result.budget for result in results):
        head = "".join(f"{COLUMNS[name]:<{cell}}" for name in names).rstrip()
        lines += ["", f"{budget} frames".ljust(width + 4) + head]
        for strategy, by_budget in summed.items():
            if columns := by_budget.get(str(budget)):
                cells = "".join(f"{_words(name, columns[name]):<{cell}}" for name in names)
                lines.append(f"  {strategy:<{width}}  {cells}".rstrip())
    return "\n".join(lines)


def _rounded(over: Spread) -> dict[str, float]:
    return {name: round(value, 6) for name, value in asdict(over).items()}


def _words(name: str, over: dict[str, float]) -> str:
    form = "{:.3f}" if name in _SHARES else "{:g}"
    median, low, high = (form.format(over[key]) for key in ("median", "p10", "p90"))
    return median if low == high else f"{median} ({low} to {high})"
