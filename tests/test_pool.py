import json

import numpy as np
import pytest

from geal_edge.errors import Interrupted, SourceClash, SourceError, UsageError
from geal_edge.runtime import pool
from geal_edge.runtime.frame import LostFrame
from geal_edge.runtime.kcenter import draw_first
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from tests.fakes import MemorySource, frame
from tests.test_kcenter import naive

BAD = LostFrame(
    id="memory#9", source="memory", frame_index=9, capture_time_ns=None, reason="empty", detail="zero bytes"
)


def select(sources, encoder, budget=5, **more):
    return pool.select(sources, encoder=encoder, budget=budget, watch=Silent(), **more)


def test_select_picks_what_the_naive_loop_picks_over_the_frames_clusters(encoder):
    selection = select([open_source("drawn:1:40")], encoder, budget=8, seed=3)
    units = [f.clusters.rows for f in selection.frames]
    expected = naive(units, 8, draw_first(40, 3))
    assert [(p.unit, p.squared) for p in selection.picks] == expected


def test_the_picks_file_has_the_documented_fields_and_reads_back(encoder, tiny_bundle, tmp_path):
    sources = [MemorySource([frame(i) for i in range(6)] + [BAD])]
    selection = select(sources, encoder, budget=4)
    picks = pool.picks_json(selection, sources, tiny_bundle, budget=4, seed=0)
    pool.write_picks(tmp_path / "picks.json", picks)
    read = pool.read_picks(tmp_path / "picks.json")
    assert read == json.loads(json.dumps(picks))
    assert {"schema", "feature_space", "preset", "picks"} <= set(read)
    assert read["frames"] == {"seen": 7, "lost": 1, "selected": 4}
    assert read["lost"] == {"empty": 1}
    assert [p["order"] for p in read["picks"]] == [1, 2, 3, 4]
    assert set(read["picks"][0]) == {
        "order", "unit", "id", "sha256", "source", "frame_index", "capture_time_ns", "distance", "witness", "clusters",
    }  # fmt: skip
    first, *rest = read["picks"]
    assert first["distance"] == 0.0
    assert first["witness"] == {"patches": [], "grid": [10, 10]}
    assert all(p["distance"] > 0 and p["witness"]["patches"] for p in rest)
    distances = [p["distance"] for p in rest]
    assert distances == sorted(distances, reverse=True)


def test_the_digest_is_that_of_the_sources_own_bytes_and_null_without(encoder, tiny_bundle):
    from hashlib import sha256

    own = select([MemorySource([frame(0)])], encoder, budget=1)
    assert own.frames[0].digest == sha256(b"bytes of frame 0").hexdigest()
    assert select([open_source("drawn:1:1")], encoder, budget=1).frames[0].digest is None


def test_a_budget_beyond_the_pool_orders_all_of_it(encoder):
    selection = select([MemorySource([frame(i) for i in range(3)])], encoder, budget=10)
    assert sorted(p.unit for p in selection.picks) == [0, 1, 2]


def test_two_sources_of_one_name_clash(encoder):
    with pytest.raises(SourceClash, match="memory"):
        select([MemorySource([frame(0)]), MemorySource([frame(1)])], encoder)


def test_nothing_usable_and_impossible_budgets_are_sentences(encoder):
    with pytest.raises(SourceError, match="none of the 1 frames could be used"):
        select([MemorySource([BAD])], encoder)
    with pytest.raises(UsageError, match="at least 1"):
        select([MemorySource([frame(0)])], encoder, budget=0)
    with pytest.raises(Interrupted):
        select([MemorySource([frame(0)])], encoder, stop=lambda: True)


def test_a_file_that_is_no_picks_file_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "p.json"
    with pytest.raises(UsageError, match="cannot be read"):
        pool.read_picks(path)
    for text, words in (("{", "not JSON"), ("[]", "None"), ('{"schema": "geal-edge/picks/9"}', "picks/9")):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            pool.read_picks(path)


def test_frames_of_the_pool_are_forgotten_as_images(encoder):
    selection = select([MemorySource([frame(0)])], encoder, budget=1)
    assert not any(
        isinstance(getattr(selection.frames[0], name), np.ndarray) for name in selection.frames[0].__dataclass_fields__
    )
