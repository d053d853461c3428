"""Downstream probes: what simple models learn of the selected frames, tested on stretches that were held out.

They are trained on frozen patch features, not on pixels, so they say how much of the classes' variety a selection holds, in
minutes and without a GPU; what a detector gains of it has to be trained (docs/paper.md).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import MissingDependency, UsageError
from geal_edge.runtime.compare.labels.annotation import FrameLabels
from geal_edge.runtime.features import Features
from geal_edge.runtime.pool import Pool
from geal_edge.runtime.poolframe import PoolFrame

Scores: TypeAlias = npt.NDArray[np.float64]

STRETCHES = 20
HELD_OUT = 4
"""A pool is cut into so many stretches, of which one in so many is held out: 5 of 20, a quarter of the frames."""
FEWEST_UNITS = 2 * STRETCHES
"""Of a pool from which some are held out."""

NEIGHBOURS = 10
STEPS = 100
TEST_PATCHES = 4096
"""Patches that probes are tested on, at most; above that a sample drawn with seed 0 stands for all."""


def hold_out(pool: Pool, *, seed: int = 0) -> tuple[Pool, tuple[PoolFrame, ...]]:
    """(what is left to select from, the frames to test on): a quarter of the pool in whole stretches, drawn by `seed`.

    Frames of a drive are nearly copies of those before them; of single held-out frames the training would know the
    neighbours. Raises UsageError where a pool has fewer than two frames a stretch.
    """
    if len(pool.units) < FEWEST_UNITS:
        raise UsageError(
            f"probes hold out {STRETCHES // HELD_OUT} of {STRETCHES} stretches, and the pool has {len(pool.units)} units. "
            f"They need at least {FEWEST_UNITS}."
        )
    drawn = np.random.default_rng(seed).choice(STRETCHES, STRETCHES // HELD_OUT, replace=False)
    stretch = np.arange(len(pool.units)) * STRETCHES // len(pool.units)
    held = np.isin(stretch, drawn)
    tested = tuple(pool.frames[i] for unit, out in zip(pool.units, held, strict=True) for i in unit if out)
    frames: list[PoolFrame] = []
    units: list[range] = []
    for unit, out in zip(pool.units, held, strict=True):
        if not out:
            units.append(range(len(frames), len(frames) + len(unit)))
            frames += [pool.frames[i] for i in unit]
    return replace(pool, frames=tuple(frames), units=tuple(units)), tested


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """vectors: (n, D) fp32, all of one length; classes: (n, C), which classes an example has."""

    vectors: npt.NDArray[np.float32]
    classes: npt.NDArray[np.bool_]


class Probes:
    """Trains and tests on the stored features and the labels of frames, which are named by their ids.

    Of masks every patch is an example of one class, and a score is the mean intersection over union of the classes among
    the test patches. Of boxes every frame is one, by the mean of its patches, and a score is the mean average precision of
    "the frame holds an instance", over the classes that some test frames hold and others do not.

    Raises UsageError where no test frame is labelled, MissingDependency without scikit-learn.
    """

    def __init__(self, features: Features, labels: Mapping[str, FrameLabels], test: Sequence[str]) -> None:
        _require_sklearn()
        self._labels = labels
        self._tokens = {
            record.id: encoded.patch_features
            for source in list(features.sources)
            for record, encoded in features.frames(source)
            if record.id in labels
        }
        tested = self._examples(test)
        if tested is None:
            raise UsageError(
                "none of the frames that were held out is labelled, so the probes have nothing to be tested on."
            )
        if len(tested.vectors) > TEST_PATCHES:
            drawn = np.random.default_rng(0).choice(len(tested.vectors), TEST_PATCHES, replace=False)
            tested = Examples(vectors=tested.vectors[drawn], classes=tested.classes[drawn])
        self._test = tested

    def scores(self, selected: Sequence[str]) -> dict[str, float]:
        """`knn` and `logistic`, 0 to 1, trained on the selected frames; nothing is drawn. 0 where none of them is labelled."""
        train = self._examples(selected)
        if train is None:
            return {"knn": 0.0, "logistic": 0.0}
        of_patches = any(label.patches is not None for label in self._labels.values())
        score = mean_iou if of_patches else mean_average_precision
        return {
            "knn": score(nearest_neighbours(train, self._test.vectors), self._test.classes),
            "logistic": score(logistic(train, self._test.vectors, one_class=of_patches), self._test.classes),
        }

    def _examples(self, ids: Sequence[str]) -> Examples | None:
        found = [examples_of(self._tokens[id_], self._labels[id_]) for id_ in ids if id_ in self._tokens]
        found = [each for each in found if len(each.vectors)]
        if not found:
            return None
        return Examples(
            vectors=np.concatenate([each.vectors for each in found]),
            classes=np.concatenate([each.classes for each in found]),
        )


def examples_of(tokens: npt.NDArray[np.floating], label: FrameLabels) -> Examples:
    """The examples of one frame: its labelled patches, or all of it.

    tokens  (P, D)
    """
    vectors = tokens.astype(np.float32)
    if label.patches is None:
        classes = (label.instances > 0)[None]
        vectors = vectors.mean(axis=0, keepdims=True)
    else:
        known = label.patches >= 0
        vectors = vectors[known]
        classes = label.patches[known, None] == np.arange(len(label.instances))
    # Of one length, so that neighbours are neighbours by cosine; about 1 a dimension, as a logistic model's penalty expects.
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Examples(vectors=vectors * (np.sqrt(vectors.shape[1]) / np.maximum(length, 1e-12)), classes=classes)


def nearest_neighbours(train: Examples, test: npt.NDArray[np.float32]) -> Scores:
    """(n, C): of the `NEIGHBOURS` nearest training examples, the share that has each class."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOURS, len(train.vectors))
    model = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(train.vectors)
    nearest = model.kneighbors(test, return_distance=False)
    shares: Scores = train.classes[nearest].mean(axis=1)
    return shares


def logistic(train: Examples, test: npt.NDArray[np.float32], *, one_class: bool) -> Scores:
    """(n, C): the probability of each class by logistic regression; of one class each (softmax), or of each class alone."""
    scores: Scores = np.zeros((len(test), train.classes.shape[1]))
    if one_class:
        number = train.classes.argmax(axis=1)
        present = np.unique(number)
        scores[:, present] = 1.0 if len(present) == 1 else _fitted(train.vectors, number, test)
        return scores
    for column, member in enumerate(train.classes.T):
        constant = member.all() or not member.any()
        scores[:, column] = member[0] if constant else _fitted(train.vectors, member, test)[:, 1]
    return scores


def _fitted(vectors: npt.NDArray[np.float32], classes: npt.NDArray[Any], test: npt.NDArray[np.float32]) -> Scores:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # every strategy gets as many steps
        model = LogisticRegression(max_iter=STEPS).fit(vectors, classes)
    probabilities: Scores = model.predict_proba(test)
    return probabilities


def mean_iou(scores: Scores, classes: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of the class with the largest score and the true one, mean over the classes that are there.

    >>> truth = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], bool)
    >>> mean_iou(np.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0]]), truth)
    0.5833333333333333
    """
    predicted = scores.argmax(axis=1)[:, None] == np.arange(classes.shape[1])
    both = (predicted & classes).sum(axis=0)
    either = (predicted | classes).sum(axis=0)
    there = classes.any(axis=0)
    return float((both[there] / either[there]).mean())


def mean_average_precision(scores: Scores, classes: npt.NDArray[np.bool_]) -> float:
    """Average precision of each class that some examples have and others have not, and their mean; 0 where there is none."""
    from sklearn.metrics import average_precision_score

    telling = np.flatnonzero(classes.any(axis=0) & ~classes.all(axis=0))
    precisions = [average_precision_score(classes[:, number], scores[:, number]) for number in telling]
    return float(np.mean(precisions)) if precisions else 0.0


def _require_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "Probes are trained with scikit-learn, which is not installed. "
            "Install it with: pip install 'geal-edge[compare]'"
        ) from error
