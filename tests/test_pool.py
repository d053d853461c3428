import json

import numpy as np
import pytest
from typer.testing import CliRunner

from geal_edge.cli.app import app
from geal_edge.config import PRESETS, SELECTIONS, ClusterConfig, SelectionConfig
from geal_edge.errors import GealEdgeError, Interrupted, SourceClash, SourceError, UsageError
from geal_edge.models.bundle import feature_space
from geal_edge.runtime import baselines, pool
from geal_edge.runtime.clusters import knowledge_clusters
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.distill import distill
from geal_edge.runtime.frame import LostFrame, usable
from geal_edge.runtime.kcenter import draw_first, k_center_by_mean, offsets_of, sample_by_distance
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.stopping import Stop
from tests.fakes import MemorySource, StopAt, frame
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
    assert read["frames"] == {"seen": 7, "lost": 1, "gated": 0, "known": 0, "selected": 4}
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
        select([MemorySource([frame(0)])], encoder, stop=StopAt(1))


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


POOL = "drawn:1:14"


def clusters_by_hand(encoder, recipe):
    """Section 3.2 step by step for each frame: attended tokens, K-Means, centres."""
    for item in open_source(POOL).frames():
        said = encoder(usable(item).image)
        few = distill(
            said.patch_features,
            said.cls_attention,
            attention_ratio=recipe.attention_ratio,
            ratio_rule=recipe.ratio_rule,
        )
        yield few, knowledge_clusters(few, recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        ClusterConfig(attention_ratio=0.3),
        ClusterConfig(ratio_rule="paper"),
        ClusterConfig(clusters_per_frame=3),
        ClusterConfig(kmeans_metric="euclidean", clusters_per_frame=6),
    ],
)
def test_each_knob_of_the_clusters_reaches_them_and_the_feature_space(encoder, tiny_bundle, recipe):
    sources = [open_source(POOL)]
    selection = select(sources, encoder, budget=6, recipe=recipe)
    units = [clusters.rows for _, clusters in clusters_by_hand(encoder, recipe)]
    assert [(p.unit, p.squared) for p in selection.picks] == naive(units, 6, draw_first(14, 0))
    told = pool.picks_json(selection, sources, tiny_bundle, budget=6, seed=0)
    assert told["clusters"] == recipe.as_dict()
    assert told["feature_space"] == feature_space(tiny_bundle.manifest, recipe) != tiny_bundle.manifest.feature_space
    assert told["preset"] == "custom"


def test_pet_makes_a_frame_the_mean_of_its_attended_tokens(encoder):
    selection = select([open_source(POOL)], encoder, recipe=PRESETS["pet"], config=SELECTIONS["pet"])
    for kept, (few, _) in zip(selection.frames, clusters_by_hand(encoder, PRESETS["pet"]), strict=True):
        mean = few.tokens.astype(np.float64).mean(axis=0)
        assert np.allclose(kept.clusters.rows[0], mean / np.linalg.norm(mean), atol=1e-3)


def test_the_euclidean_metric_measures_the_raw_centres(encoder):
    config = SelectionConfig(metric="euclidean")
    selection = select([open_source(POOL)], encoder, budget=9, config=config)
    units = []
    for few, clusters in clusters_by_hand(encoder, ClusterConfig()):
        labels = clusters.patch_cluster[few.patches]
        units.append(np.stack([few.tokens[labels == c].astype(np.float64).mean(axis=0) for c in np.unique(labels)]))
    order = [draw_first(14, 0)]
    while len(order) < 9:
        known = np.concatenate([units[u] for u in order])
        order.append(int(np.argmax([np.linalg.norm(u[:, None] - known, axis=2).min(1).max() for u in units])))
    assert [pick.unit for pick in selection.picks] == order
    assert selection.picks[1].squared > 4  # longer than any chord


@pytest.mark.parametrize(
    "strategy",
    ["random", "uniform", "every-nth", "coreset-cosine", "coreset-euclidean", "facility-location", "density"],
)
def test_a_baselines_picks_are_its_order_with_the_methods_distances(encoder, tiny_bundle, strategy):
    sources = [open_source(POOL)]
    selection = select(sources, encoder, budget=5, seed=2, config=SelectionConfig(strategy=strategy))
    embeddings = np.stack([encoder(usable(item).image).cls_embedding for item in sources[0].frames()])
    begin = draw_first(14, 2)
    units = [frame.clusters.rows for frame in selection.frames]
    rows, offsets = np.concatenate(units), offsets_of(units)
    expected = {
        "facility-location": lambda: baselines.facility_location(rows, offsets, 5, units=range(14)),
        "density": lambda: baselines.density_aware(rows, offsets, 5, first=begin, units=range(14)),
        "random": lambda: baselines.random_order(14, 5, 2),
        "uniform": lambda: baselines.uniform_in_time(14, 5),
        "every-nth": lambda: baselines.every_nth(14, 5),
        "coreset-cosine": lambda: baselines.core_set(embeddings, 5, first=begin, metric="cosine"),
        "coreset-euclidean": lambda: baselines.core_set(embeddings, 5, first=begin, metric="euclidean"),
    }[strategy]()
    assert [pick.unit for pick in selection.picks] == expected
    for i, pick in enumerate(selection.picks[1:], start=1):
        known = np.concatenate([selection.frames[unit].clusters.rows for unit in expected[:i]])
        assert pick.squared == squared_distances(selection.frames[pick.unit].clusters.rows, known).min(1).max()
    told = pool.picks_json(selection, sources, tiny_bundle, budget=5, seed=2)
    assert (told["strategy"], told["preset"], told["seed"]) == (strategy, "custom", 2)


def test_mean_and_probability_and_the_first_frame_are_as_asked(encoder, tiny_bundle):
    sources = [open_source(POOL)]
    rows = np.concatenate([clusters.rows for _, clusters in clusters_by_hand(encoder, ClusterConfig())])
    offsets = offsets_of([clusters.rows for _, clusters in clusters_by_hand(encoder, ClusterConfig())])
    mean = select(sources, encoder, first="drawn-1#3", config=SelectionConfig(reduction="mean"))
    assert list(mean.picks) == k_center_by_mean(rows, offsets, 5, first=3)
    drawn = select(sources, encoder, seed=4, config=SelectionConfig(sampling="probability"))
    assert list(drawn.picks) == sample_by_distance(rows, offsets, 5, first=draw_first(14, 4), seed=4)
    told = pool.picks_json(mean, sources, tiny_bundle, budget=5, seed=0)
    assert (told["first"], told["selection"]["reduction"]) == ("drawn-1#3", "mean")
    with pytest.raises(UsageError, match="Did you mean drawn-1#3"):
        select(sources, encoder, first="drwn-1#3")
    with pytest.raises(UsageError, match="does not begin"):
        select(sources, encoder, first="drawn-1#3", config=SelectionConfig(strategy="uniform"))


def test_settings_that_exclude_each_other_are_refused():
    with pytest.raises(UsageError, match=r"Eq\. 5"):
        SelectionConfig(sampling="probability", reduction="mean")
    with pytest.raises(UsageError, match="belong to 'geal'"):
        SelectionConfig(strategy="uniform", metric="euclidean")
    with pytest.raises(UsageError, match="farthest, probability"):
        SelectionConfig(sampling="sometimes")  # type: ignore[arg-type]  # as a config file may have it


def test_stopped_while_selecting_the_picks_so_far_are_the_selection_of_their_number(encoder, tiny_bundle):
    sources, stop = [MemorySource([frame(i) for i in range(8)])], StopAt(8 + 4)
    cut = select(sources, encoder, budget=6, stop=stop)
    assert (len(cut.picks), cut.cut) == (3, True)
    assert [p.unit for p in cut.picks] == [p.unit for p in select(sources, encoder, budget=6).picks][:3]
    assert pool.picks_json(cut, sources, tiny_bundle, budget=6, seed=0)["cut"] is True
    with pytest.raises(Interrupted, match="before anything was selected"):
        select(sources, encoder, budget=6, stop=StopAt(8 + 1))


@pytest.mark.parametrize(
    "config",
    [
        SelectionConfig(metric="euclidean"),
        SelectionConfig(reduction="mean"),
        SelectionConfig(sampling="probability"),
        SelectionConfig(strategy="coreset-cosine"),
    ],
)
def test_every_way_of_choosing_can_be_stopped(encoder, config):
    cut = select([MemorySource([frame(i) for i in range(8)])], encoder, budget=6, config=config, stop=StopAt(8 + 4))
    assert (len(cut.picks), cut.cut) == (3, True)


def test_asked_while_a_source_looks_for_its_next_frame_reading_stops_at_once(encoder):
    stop = Stop()

    class Searching(MemorySource):
        def frames(self, after=-1):
            stop.ask()  # as a signal would, in the middle of an hour that is skipped
            yield from super().frames(after=after)

    with pytest.raises(Interrupted, match="before the selection; nothing"):
        select([Searching([frame(i) for i in range(4)])], encoder, stop=stop)


def test_the_command_takes_features_known_presets_and_knobs(tiny_bundle, tmp_path):
    def call(*words):
        result = CliRunner().invoke(app, ["select", "-b", str(tiny_bundle.path), *map(str, words)])
        if isinstance(result.exception, GealEdgeError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    features, picks = tmp_path / "features", [tmp_path / f"{n}.json" for n in range(4)]
    call(POOL, "-n", 3, "--features", features, "-o", picks[0])
    call("-n", 3, "--features", features, "-o", picks[1])
    assert picks[0].read_bytes() == picks[1].read_bytes()
    out = call("-n", 20, "--features", features, "--known", picks[0], "--preset", "freesel", "-o", picks[2])
    assert "11 of 14 frames selected, 3 known" in out
    told = pool.read_picks(picks[2])
    assert (told["preset"], told["clusters"]["clusters_per_frame"]) == ("freesel", 5)
    assert told["selection"] == {"metric": "cosine", "sampling": "probability", "reduction": "max"}
    out = call("-n", 2, "--features", features, "--metric", "euclidean", "--attention-ratio", 0.4, "-o", picks[3])
    assert "other machines" in out
    assert pool.read_picks(picks[3])["clusters"]["attention_ratio"] == 0.4
    call("-n", 2, "--features", features, "--preset", "freesel", "--strategy", "coreset-cosine", "-o", picks[3])
    with pytest.raises(UsageError, match="no SOURCE"):
        call("-n", 2)
    with pytest.raises(UsageError, match="attention_ratio"):
        call(POOL, "-n", 2, "--attention-ratio", 1.5)
