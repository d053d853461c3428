"""Selection parity: equal clusters select equally, noise costs what it costs, and copies cost nothing."""

import json

import numpy as np
import pytest

from geal_edge.errors import UsageError
from geal_edge.runtime.clusters import unit_rows
from geal_edge.runtime.selection_parity import selection_parity


def clusters(count: int, noise: float = 0.0, seed: int = 0):
    rng, noisy = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    rows = [rng.standard_normal((rng.integers(1, 6), 16)) for _ in range(count)]
    return [unit_rows(frame + noise * noisy.standard_normal(frame.shape)) for frame in rows]


def test_the_same_clusters_select_the_same():
    parity = selection_parity(clusters(60), clusters(60), tolerance=0.0)
    assert parity.passed
    assert (parity.radius_ratio, parity.mean_ratio, parity.jaccard) == (1.0, 1.0, 1.0)


def test_other_clusters_select_worse_and_are_refused():
    parity = selection_parity(clusters(200), clusters(200, seed=7)[::-1], tolerance=0.02)
    assert not parity.passed
    assert parity.jaccard < 0.5
    assert "FAILED" in str(parity)


def test_more_clusters_of_a_frame_than_before_are_measured_all_the_same():
    found = [np.concatenate([rows, rows[:1]]) for rows in clusters(60)]
    assert selection_parity(clusters(60), found, tolerance=0.0).passed


def test_a_pool_of_copies_is_covered_by_any_pick():
    copies = [clusters(1)[0]] * 30
    parity = selection_parity(copies, copies, tolerance=0.0)
    assert parity.passed
    assert parity.radius_ratio == 1.0


def test_the_report_is_json():
    report = json.loads(json.dumps(selection_parity(clusters(40), clusters(40, 0.1), tolerance=0.05).as_dict()))
    assert {"radius_ratio", "mean_ratio", "jaccard", "passed", "budget", "frames", "draws"} <= set(report)


def test_one_frame_cannot_be_selected_from():
    with pytest.raises(UsageError, match="two or more frames"):
        selection_parity(clusters(1), clusters(1), tolerance=0.0)
