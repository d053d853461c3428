"""What a budget buys: covers against their definition, simulated days against a real spool, and cells that are never lost."""

import json
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import count
from typing import Any

import numpy as np
import pytest

from geal_edge.errors import BundleError, Interrupted, SourceClash, SpoolDamaged, UsageError
from geal_edge.export.exporter import ExportOptions, export_bundle
from geal_edge.models.bundle import feature_space
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.compare.cells import aligned
from geal_edge.runtime.compare.comparison import compare, label_table
from geal_edge.runtime.compare.cover import covers
from geal_edge.runtime.compare.found import found
from geal_edge.runtime.compare.jobs import run_jobs
from geal_edge.runtime.compare.pools import (
    EPOCH_NS,
    ComparedSource,
    FeaturesJob,
    in_capture_order,
    joined,
    read_stored_pool,
    store_features,
)
from geal_edge.runtime.compare.simulate import released, round_seconds
from geal_edge.runtime.compare.strategies import RECIPE, STRATEGIES, named, order_of
from geal_edge.runtime.compare.sweep import variants
from geal_edge.runtime.compare.table import as_dict, in_what, sentences, tables
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.features import Features
from geal_edge.runtime.frame import usable
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.kcenter import offsets_of
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pool import read_pool
from geal_edge.runtime.poolframe import PoolFrame
from geal_edge.runtime.report.compared import write_comparison
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.stopping import Stop
from tests.streams import drive_stream, random_stream
from tests.test_report import HOSTILE, VOID
from tests.test_rounds import live
from tests.test_rounds import released as really_released
from tests.tiny import tiny_weights

DRIVES = ("drawn:1:14", "drawn:2:10")
FEW = ("geal", "stream-paced", "uniform", "random")


def opened(specs=DRIVES):
    return [open_source(spec) for spec in specs]


def comparison_of(bundle, out, sources=DRIVES, **more):
    given: dict[str, Any] = {"budgets": (3, 6), "strategies": FEW, "watch": Silent()} | more
    return compare(opened(sources), bundle=bundle.path, out=out, **given)


@pytest.fixture(scope="module")
def compared(tiny_bundle, tmp_path_factory):
    """(folder, comparison) of two drives by every strategy; nobody writes to the folder."""
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, comparison_of(tiny_bundle, out, strategies=())


def pool_frames(clusters, source="drive", step_ns=200_000_000):
    return [
        PoolFrame(
            id=f"{source}#{i}", source=source, frame_index=i, capture_time_ns=i * step_ns, digest=None, clusters=each
        )
        for i, each in enumerate(clusters)
    ]


def results(comparison):
    """All of the machine form but the seconds."""
    return {**as_dict(comparison), "seconds": None}


# -- what is measured --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_cover_is_the_chord_from_every_cluster_to_the_nearest_selected_one(seed):
    rows = [clusters.rows for clusters in random_stream(seed, 40)]
    order = np.random.default_rng(seed).permutation(40)[:20].tolist()
    for budget, cover in zip(
        (1, 7, 20, 30), covers(np.concatenate(rows), offsets_of(rows), order, (1, 7, 20, 30)), strict=True
    ):
        chords = []
        for of_frame in rows:
            for row in of_frame:
                chords.append(min(np.sqrt(squared_distances(row[None], rows[i]).min()) for i in order[:budget]))
        assert asdict(cover) == pytest.approx(
            {"radius": max(chords), "mean": np.mean(chords), "p95": np.percentile(chords, 95)}, abs=1e-12
        )


@pytest.mark.parametrize("rule", ["paced", "round_end", "immediate"])
def test_a_simulated_day_releases_what_a_real_spool_has_released_at_its_end(rule, tmp_path):
    stream = drive_stream(3, 90)
    live(tmp_path / "s", stream, release=rule, length_s=91.0, budget=8, trips=(89,))
    told = released(stream, 8, rule, seconds=range(1, 91), length_s=91.0)
    assert [f"memory#{index}" for index in told] == really_released(tmp_path / "s")[1]


def test_time_between_two_sources_is_not_driven_and_a_frame_without_a_time_is_a_second():
    clusters = random_stream(0, 6)
    film = pool_frames(clusters[:3], "film", 500_000_000)
    later = [replace(f, capture_time_ns=10**18 + (f.capture_time_ns or 0)) for f in pool_frames(clusters[3:], "later")]
    seconds, length_s = round_seconds(film + later)
    assert [*seconds, length_s] == pytest.approx([0.0, 0.5, 1.0, 1.5, 1.7, 1.9, 2.1])
    pictures = [replace(frame, capture_time_ns=None) for frame in film]
    assert round_seconds(pictures) == ([0.0, 1.0, 2.0], 3.0)
    late = [film[0], replace(film[1], capture_time_ns=-1), film[2]]
    assert round_seconds(late)[0] == [0.0, 0.0, 1.0]


def test_drives_are_joined_by_capture_time_where_all_of_them_have_times_of_day():
    morning, evening = (
        [replace(f, capture_time_ns=EPOCH_NS + at + f.frame_index) for f in pool_frames(random_stream(0, 2), name)]
        for name, at in (("morning", 5), ("evening", 500))
    )
    assert [f.source for f in in_capture_order([evening, [], morning])] == ["morning"] * 2 + ["evening"] * 2
    film = pool_frames(random_stream(0, 2), "film")
    assert [f.source for f in in_capture_order([evening, film])] == ["evening"] * 2 + ["film"] * 2


@pytest.mark.parametrize("name", [n for n in STRATEGIES if not n.startswith("coreset")])
def test_every_strategy_selects_its_budget_of_distinct_frames_and_says_truly_whether_it_grows(name):
    strategy = STRATEGIES[name]
    frames = pool_frames(drive_stream(5, 60))
    pool = joined(frames, {}, RECIPE)
    small, large = (order_of(strategy, pool, budget, 1, Stop()) for budget in (4, 9))
    assert (len(set(small)), len(set(large))) == (4, 9)
    if strategy.prefixes:
        assert large[:4] == small


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_every_strategy_is_measured_in_one_space_and_with_its_draws(compared, encoder):
    _, comparison = compared
    assert {c.name: len(c.draws) for c in comparison.compared} == {n: s.draws for n, s in STRATEGIES.items()}
    pool = read_pool(opened(), encoder=encoder, recipe=RECIPE, watch=Silent())
    assert [f.id for f in comparison.pool.frames] == [f.id for f in pool.frames]
    rows = [frame.clusters.rows for frame in pool.frames]
    for strategy in comparison.compared:
        for draw in strategy.draws:
            assert len(set(draw.orders[6])) == 6
            (cover,) = covers(np.concatenate(rows), offsets_of(rows), draw.orders[6], [6])
            assert draw.covers[6] == cover


def test_choices_are_one_for_each_draw_or_one_for_each_budget_where_selections_do_not_grow(compared):
    _, comparison = compared
    choices = comparison.choices()
    assert {c.seed for c in choices if c.strategy == "geal"} == {0, 1, 2}
    assert [len(c.order) for c in choices if c.strategy == "geal"] == [6, 6, 6]
    assert [(c.seed, len(c.order)) for c in choices if c.strategy == "uniform"] == [(None, 3), (None, 6)]
    assert len({(c.strategy, c.seed) for c in choices}) == sum(s.draws for s in STRATEGIES.values())
    half = tuple(
        replace(c, draws=tuple(replace(d, orders={3: d.orders[3]}) for d in c.draws)) for c in comparison.compared
    )
    assert replace(comparison, compared=half).choices() == []


def test_a_second_run_takes_everything_from_disk_and_says_the_same(compared, tiny_bundle, tmp_path):
    out, comparison = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = comparison_of(tiny_bundle, out, strategies=())
    assert results(again) == results(comparison)
    assert again.stored_s > 0.0 == comparison.stored_s
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_two_processes_find_what_one_finds(compared, tiny_bundle, tmp_path):
    _, one = compared
    two = comparison_of(tiny_bundle, tmp_path / "out", strategies=("geal", "uniform"), processes=2)
    expected = {line["name"]: line for line in as_dict(one)["strategies"]}
    assert [line["name"] for line in as_dict(two)["strategies"]] == ["geal", "uniform"]
    assert all(line == expected[line["name"]] for line in as_dict(two)["strategies"])


class StopAtStep(Silent):
    """Asks to stop with the n-th step of a comparison's work."""

    def __init__(self, at, stop):
        self.at, self.stop, self.steps = at, stop, count(1)

    def advance(self, **counts):
        if next(self.steps) == self.at:
            self.stop.ask()


def stopped(tiny_bundle, out, at):
    stop = Stop()
    return comparison_of(tiny_bundle, out, watch=StopAtStep(at, stop), stop=stop)


def test_what_was_worked_out_when_it_was_stopped_is_shown_and_the_same_call_goes_on(tiny_bundle, tmp_path):
    for at in (1, 3):  # a drive encoded; all grouped
        with pytest.raises(Interrupted, match="goes on"):
            stopped(tiny_bundle, tmp_path / "out", at)
    cut = stopped(tiny_bundle, tmp_path / "out", 1)
    assert cut.cut
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 1
    assert "not done" in "\n".join(tables(cut))
    assert next(sentences(cut)).startswith("With stream-paced, 6 frames cover")
    whole = comparison_of(tiny_bundle, tmp_path / "out")
    assert results(whole) == results(comparison_of(tiny_bundle, tmp_path / "anew"))


def test_a_cell_that_is_torn_is_worked_out_again_and_a_torn_pool_is_named(tiny_bundle, tmp_path):
    few = {"strategies": ("geal", "uniform"), "sources": ("drawn:1:12",)}
    whole = comparison_of(tiny_bundle, tmp_path, **few)
    for cell in (tmp_path / "cells").iterdir():
        cell.write_bytes(cell.read_bytes()[:20])
    assert results(comparison_of(tiny_bundle, tmp_path, **few)) == results(whole)
    (pool,) = (tmp_path / "pools").iterdir()
    for size in (200, 0):
        pool.write_bytes(pool.read_bytes()[:size])
        read_stored_pool.cache_clear()
        with pytest.raises(SpoolDamaged, match="Remove it"):
            comparison_of(tiny_bundle, tmp_path, **few)


def test_other_content_of_the_same_name_is_another_comparison(tiny_bundle, tmp_path):
    images = tmp_path / "drive"
    images.mkdir()
    for n in (6, 9):
        for frame in open_source(f"drawn:3:{n}").frames():
            (images / f"{frame.frame_index}.jpg").write_bytes(encode(usable(frame).image, "jpg"))
        found_now = comparison_of(tiny_bundle, tmp_path / "out", sources=(str(images),), strategies=("uniform",))
        assert len(found_now.pool.frames) == n


def test_stored_features_are_enough_and_none_named_means_all(compared, tiny_bundle, encoder, tmp_path):
    _, whole = compared
    folder = tmp_path / "features"
    with Features(folder, tiny_bundle.manifest, writable=True) as features:
        read_pool(opened(), encoder=encoder, features=features, watch=Silent())
    both = comparison_of(tiny_bundle, tmp_path / "out", sources=(), features=folder)
    assert as_dict(both)["strategies"] == [s for s in as_dict(whole)["strategies"] if s["name"] in FEW]
    one = comparison_of(tiny_bundle, tmp_path / "out", sources=DRIVES[1:], features=folder)
    assert {frame.source for frame in one.pool.frames} == {one.sources[0].name}
    with pytest.raises(UsageError, match="does not hold all of drawn-9"):
        comparison_of(tiny_bundle, tmp_path / "out", sources=("drawn:9:5",), features=folder)
    assert not (tmp_path / "out" / "features").exists()


# -- what is swept -----------------------------------------------------------------------------------------------------


def test_a_sweep_chooses_with_other_settings_and_is_measured_in_the_same_clusters(tiny_bundle, tmp_path):
    sweeps = ("attention_ratio=0.5,0.9", "preset=geal,pet")
    comparison = comparison_of(tiny_bundle, tmp_path, strategies=("geal",), sweeps=sweeps)
    by_name = {c.name: c for c in comparison.compared}
    assert list(by_name) == ["geal", *(v.name for v in variants(sweeps))]
    same = by_name["geal attention_ratio=0.5 preset=geal"]
    assert [d.covers for d in same.draws] == [d.covers for d in by_name["geal"].draws]
    pet = by_name["geal attention_ratio=0.5 preset=pet"]
    assert [d.orders for d in pet.draws] != [d.orders for d in by_name["geal"].draws]
    assert same.settings == {"attention_ratio": "0.5", "preset": "geal"}


def test_another_bundle_encodes_by_itself_and_is_measured_in_the_first_ones_clusters(tiny_bundle, tmp_path):
    other, _ = export_bundle(
        tiny_weights(seed=7), tmp_path / "other", ExportOptions(width=160, height=160), watch=Silent()
    )
    comparison = comparison_of(tiny_bundle, tmp_path / "out", strategies=("geal",), sweeps=(f"bundle={other.path}",))
    assert len(list((tmp_path / "out" / "features").iterdir())) == 2
    geal, new = comparison.compared
    assert comparison.feature_space == feature_space(tiny_bundle.manifest, RECIPE)
    rows = [frame.clusters.rows for frame in comparison.pool.frames]
    (cover,) = covers(np.concatenate(rows), offsets_of(rows), new.draws[0].orders[6], [6])
    assert new.draws[0].covers[6] == cover
    assert new.draws[0].orders != geal.draws[0].orders


@pytest.mark.parametrize(
    "sweep", ["", "tau=0.5", "attention_ratio", "attention_ratio=", "attention_ratio=a", "attention_ratio=2",
              "clusters_per_frame=0", "clusters_per_frame=2.5", "preset=best", "precision=fp16"],
)  # fmt: skip
def test_a_sweep_that_cannot_be_meant_is_a_sentence(sweep):
    with pytest.raises(UsageError):
        variants([sweep])
    with pytest.raises(UsageError, match="already"):
        variants(["clusters_per_frame=5", "clusters_per_frame=7"])


def test_frames_that_only_one_of_two_recipes_can_judge_are_not_compared():
    frames = pool_frames(random_stream(0, 6))
    measured = joined(frames[1:], {}, RECIPE)
    pool, places = aligned(joined(frames[:4], {}, RECIPE), measured)
    assert [frame.id for frame in pool.frames] == ["drive#1", "drive#2", "drive#3"]
    assert [measured.frames[i].id for i in places] == [frame.id for frame in pool.frames]


def test_what_is_found_is_far_from_the_other_selection_and_never_in_it():
    pool = joined(pool_frames(drive_stream(2, 80)), {}, RECIPE)
    ours = order_of(STRATEGIES["geal"], pool, 12, 0, Stop())
    theirs = order_of(STRATEGIES["uniform"], pool, 12, 0, Stop())
    told = found(pool, ours, theirs, at_most=5)
    assert len(told) == 5
    rows = np.concatenate([pool.frames[i].clusters.rows for i in theirs])
    first = told[0]
    distances = squared_distances(pool.frames[first.frame].clusters.rows, rows).min(axis=1)
    assert first.pick.squared == distances.max()
    assert first.pick.witness == distances.argmax()
    assert not {each.frame for each in told} & set(theirs)
    assert found(pool, theirs, theirs, at_most=5) == []


# -- calls that cannot be meant ----------------------------------------------------------------------------------------


def test_calls_that_cannot_be_meant_are_refused(tiny_bundle, tmp_path):
    with pytest.raises(UsageError, match="no SOURCE"):
        comparison_of(tiny_bundle, tmp_path, sources=())
    with pytest.raises(UsageError, match="at least 1"):
        comparison_of(tiny_bundle, tmp_path, budgets=(0, 5))
    with pytest.raises(UsageError, match="best: is none"):
        comparison_of(tiny_bundle, tmp_path, strategies=("best",))
    with pytest.raises(SourceClash):
        comparison_of(tiny_bundle, tmp_path, sources=("drawn:1:5", "drawn:1:5"))
    assert list(tmp_path.iterdir()) == []


def test_without_cls_embeddings_core_set_is_left_out_and_said(tiny_bundle, tmp_path):
    options = ExportOptions(width=160, height=160, cls_embedding=False)
    bundle, _ = export_bundle(tiny_weights(), tmp_path / "bundle", options, watch=Silent())
    said = []

    class Hears(Silent):
        def warn(self, message):
            said.append(message)

    more = {"sources": ("drawn:1:8",), "watch": Hears()}
    found_now = comparison_of(bundle, tmp_path / "out", strategies=("uniform", "coreset-cosine"), **more)
    assert [c.name for c in found_now.compared] == ["uniform"]
    assert any("--no-cls" in line for line in said)
    with pytest.raises(UsageError, match="none is left"):
        comparison_of(bundle, tmp_path / "out", strategies=("coreset-cosine",), **more)


def test_stored_features_without_cls_embeddings_leave_core_set_out_until_they_are_stored_with_them(
    tiny_bundle, tmp_path
):
    options = ExportOptions(width=160, height=160, cls_embedding=False)
    bundle, _ = export_bundle(tiny_weights(), tmp_path / "bundle", options, watch=Silent())
    folder = tmp_path / "features"
    for stored_by, compared in ((bundle, ["uniform"]), (tiny_bundle, ["uniform", "coreset-cosine"])):
        shutil.rmtree(folder, ignore_errors=True)
        with (
            Encoder(stored_by, OrtCpu(stored_by.graph)) as encoder,
            Features(folder, stored_by.manifest, writable=True) as features,
        ):
            read_pool(opened(("drawn:1:8",)), encoder=encoder, features=features, watch=Silent())
        found_now = comparison_of(
            tiny_bundle, tmp_path / "out", sources=(), features=folder, strategies=("uniform", "coreset-cosine")
        )
        assert [c.name for c in found_now.compared] == compared


# -- jobs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_one_job_ends_all_and_none_begins_once_it_is_stopped(processes, tmp_path):
    (source,) = comparison_sources(("drawn:1:5",))
    jobs = [FeaturesJob(bundle=tmp_path / f"none{i}", source=source, folder=tmp_path / "f", threads=1) for i in (1, 2)]
    with pytest.raises(BundleError, match="none"):
        list(run_jobs(store_features, jobs, processes=processes, stop=Stop()))
    stop = Stop()
    stop.ask()
    assert list(run_jobs(store_features, jobs, processes=processes, stop=stop)) == []


def comparison_sources(specs):
    return [
        ComparedSource(name=s.name, spec=s.spec, kind=s.kind, fps=s.fps, fingerprint=s.fingerprint())
        for s in opened(specs)
    ]


def test_the_words_say_what_the_numbers_are(compared):
    _, comparison = compared
    assert "24 frames of 2 sources, one pool" in in_what(comparison)
    first, *rest = sentences(comparison)
    assert first.startswith("With geal, 3 frames cover everything seen to within chord ")
    assert "; 6 would to within " in first
    assert any("geal beside sampling evenly in time" in sentence for sentence in rest)
    assert any(sentence.startswith("3 drawn first images move geal by") for sentence in rest)
    lines = list(tables(comparison))
    assert sum(line.startswith("geal ") for line in lines) == 3
    data = json.loads(json.dumps(as_dict(comparison)))
    assert data["schema"] == "geal-edge/comparison/1"
    geal = data["strategies"][0]
    assert set(geal["covers"]) == {"3", "6"}
    assert geal["covers"]["3"]["radius"]["median"] >= geal["covers"]["6"]["radius"]["median"]
    assert named(["random", "geal"]) == ["geal", "random"]


# -- the page ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page is made of, without a browser: elements that close as they open, ids, links, texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.classes, self.sources, self.texts = [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in VOID | {"path"}:
            self.open.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.classes += (given.get("class") or "").split()
        self.sources += [given["src"]] if "src" in given else []

    def handle_endtag(self, tag):
        if tag not in VOID | {"path"}:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def page_of(comparison, out):
    write_comparison(comparison, out)
    text = out.read_text()
    return text, Page(text)


def test_the_page_has_curves_tables_and_what_each_found_and_needs_nothing_else(compared, tmp_path):
    _, comparison = compared
    text, page = page_of(comparison, tmp_path / "page.html")
    assert page.open == []
    assert {"curves", "tables", "found", "sources"} <= set(page.ids)
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert text.count('<figure class="chart') == 3
    assert page.classes.count("band") > 0
    for name, strategy in STRATEGIES.items():
        assert page.texts.count(name) >= 4, name  # three tables, and what it is
        assert strategy.words in page.texts
    words = " ".join(page.texts)
    for sentence in sentences(comparison):
        assert sentence in words
    for rival in ("uniform", "random", "coreset-cosine", "stream-paced"):
        assert f"geal found, {rival} missed" in words
        assert f"{rival} found, geal missed" in words
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<script>") == 1  # the report's own, for arrow keys


def test_the_page_is_the_same_each_time_and_says_where_a_picture_is_gone(compared, tmp_path):
    _, comparison = compared
    text, _ = page_of(comparison, tmp_path / "page.html")
    assert page_of(comparison, tmp_path / "again.html")[0] == text
    gone = replace(
        comparison, sources=tuple(replace(source, spec=str(tmp_path / "gone.mp4")) for source in comparison.sources)
    )
    text, page = page_of(gone, tmp_path / "gone.html")
    assert page.sources == []
    assert "No picture." in text


def test_a_page_of_what_was_stopped_or_has_one_budget_leaves_out_what_is_not_there(compared, tmp_path):
    _, comparison = compared
    uniform = tuple(c for c in comparison.compared if c.name == "uniform")
    text, page = page_of(replace(comparison, cut=True, budgets=(3,), compared=uniform), tmp_path / "page.html")
    assert "Stopped early." in text
    assert "found" not in page.ids
    assert "figure" not in text.split("<main>")[1]
    assert "One budget makes no curve" in text
    assert page.open == []


def test_a_name_that_is_markup_stays_text(compared, tmp_path):
    _, comparison = compared
    hostile = replace(comparison.compared[0], name=HOSTILE, settings={"bundle": HOSTILE})
    source = replace(comparison.sources[0], name=HOSTILE, spec=HOSTILE)
    text, page = page_of(
        replace(comparison, compared=(*comparison.compared, hostile), sources=(*comparison.sources, source)),
        tmp_path / "page.html",
    )
    assert HOSTILE not in text
    assert text.count("<script>") == 1
    assert page.open == []


# -- where labels exist ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tiny_bundle, tmp_path_factory):
    """(comparison of 40 frames of which 10 are held out, their labels in a folder)."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "labels").mkdir()
    for i in range(40):
        (folder / "labels" / f"drawn-1#{i}.txt").write_text(f"{i % 3} 0.5 0.5 0.2 0.2\n" * (i % 2 + 1))
    (folder / "labels" / "classes.txt").write_text("car\nbus\ntram\n")
    more = {"strategies": ("geal", "uniform"), "hold_out": True}
    return comparison_of(tiny_bundle, folder / "out", sources=("drawn:1:40",), **more), folder / "labels"


def test_what_is_held_out_for_probes_is_neither_chosen_nor_measured(labelled):
    comparison, _ = labelled
    ids = {frame.id for frame in comparison.pool.frames}
    assert len(ids) == 30
    assert len(comparison.held_out) == 10
    assert not ids & {frame.id for frame in comparison.held_out}
    assert "30 frames of 1 source, 10 more held out" in in_what(comparison)
    rows = [frame.clusters.rows for frame in comparison.pool.frames]
    for choice in comparison.choices():
        assert max(choice.order) < 30
    geal = comparison.compared[0].draws[0]
    (cover,) = covers(np.concatenate(rows), offsets_of(rows), geal.orders[3], [3])
    assert geal.covers[3] == cover


def test_labels_are_counted_and_probed_for_every_strategy_and_shown_on_the_page(labelled, tmp_path):
    pytest.importorskip("sklearn")
    comparison, labels = labelled
    table = label_table(comparison, labels, watch=Silent())
    assert (table.labelled, table.held_out) == (30, 10)
    results = table.as_dict()["results"]
    assert set(results) == {"geal", "uniform"}
    uniform = comparison.compared[1].draws[0].orders[6]
    instances = sum(comparison.pool.frames[i].frame_index % 2 + 1 for i in uniform)
    assert results["uniform"]["6"]["instances"]["median"] == instances
    assert 0.0 <= results["geal"]["3"]["logistic"]["median"] <= 1.0
    write_comparison(comparison, tmp_path / "page.html", labels=table)
    page = Page((tmp_path / "page.html").read_text())
    assert "labels" in page.ids
    assert "#labels" in page.links
    assert "Probe: logistic regression, on frames held out" in page.texts
    assert page.open == []


def test_without_one_folder_of_features_nothing_is_held_out_and_labels_are_counted_alone(
    tiny_bundle, labelled, tmp_path
):
    _, labels = labelled
    comparison = comparison_of(
        tiny_bundle, tmp_path, sources=("drawn:1:8", "drawn:2:8"), strategies=("uniform",), hold_out=True
    )
    assert comparison.held_out == ()
    table = label_table(comparison, labels, watch=Silent())
    assert "logistic" not in table.as_dict()["results"]["uniform"]["3"]


def test_a_pool_too_small_to_hold_frames_out_is_compared_whole_and_its_labels_are_counted(
    tiny_bundle, labelled, tmp_path
):
    _, labels = labelled
    # Worked out, then found stored.
    first, again = (
        comparison_of(tiny_bundle, tmp_path, sources=("drawn:1:8",), strategies=("uniform",), hold_out=True)
        for _ in range(2)
    )
    assert results(first) == results(again)
    assert again.held_out == ()
    assert len(again.pool.frames) == 8
    table = label_table(again, labels, watch=Silent())
    assert (table.labelled, table.held_out) == (8, 0)
    assert "logistic" not in table.as_dict()["results"]["uniform"]["3"]
