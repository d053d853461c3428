"""The report: which frames and why, on one page that needs nothing else and that no string of the data can break."""

import base64
import io
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from geal_edge.errors import MissingDependency, SpoolError, StorageError, UsageError
from geal_edge.runtime import report as report_module
from geal_edge.runtime import selection
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.frame import Frame, Image, LostFrame
from geal_edge.runtime.ladder import Certificate
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.report import data as report_data
from geal_edge.runtime.report import pictures, write_report
from geal_edge.runtime.report.chart import COLOURS, outline_of
from geal_edge.runtime.report.data import read_spool_report
from geal_edge.runtime.report.page import clock
from geal_edge.runtime.report.promise import picks_promise, spool_promise
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolsettings import SpoolSettings
from geal_edge.runtime.spoolview import StoredFrame, open_view
from tests.fakes import judge, lost

GRID = (4, 6)
HOSTILE = """<script>alert("1")</script><img src=x onerror='alert(1)'>&amp;"""
VOID = {"meta", "img", "input", "br", "link"}


# -- a spool as a drive fills it ---------------------------------------------------------------------------------------


@dataclass
class Drive:
    """A source made by a test: these pictures, some of them lost."""

    images: list[Image]
    name: str = "drive"
    spec: str = "/drives/drive.mp4"
    lost: dict[int, tuple[str, str]] = field(default_factory=dict)
    first_index: int = 0
    kind: str = "video"
    fps: float | None = None
    size: tuple[int, int] | None = None
    frame_count: int | None = None

    def fingerprint(self) -> str:
        return f"{self.name}:{len(self.images)}"

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame]:
        for index, image in enumerate(self.images, start=self.first_index):
            common: Any = {
                "id": f"{self.name}#{index}",
                "source": self.name,
                "frame_index": index,
                "capture_time_ns": index * 200_000_000,
            }
            if index in self.lost:
                reason, detail = self.lost[index]
                yield LostFrame(**common, reason=reason, detail=detail)
            else:
                yield Frame(**common, image=image)


def pictures_of(count: int, width: int = 64, height: int = 36) -> list[Image]:
    """Plain pictures, each of its own colour."""
    rng = np.random.default_rng(5)
    return [np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(count)]


def clusters(rng: np.random.Generator, count: int = 3) -> KnowledgeClusters:
    """Random unit rows in few dimensions, so that near and far ones occur; every cluster owns a patch."""
    rows = rng.standard_normal((count, 4))
    patches = rng.integers(-1, count, GRID[0] * GRID[1]).astype(np.int16)
    patches[rng.permutation(len(patches))[:count]] = np.arange(count)
    return KnowledgeClusters(
        rows=(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16), patch_cluster=patches
    )


def fill(path: Path, *drives: Drive, budget: int = 5, untrained: bool = False, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    settings = SpoolSettings(
        bundle="sha256:" + "ab" * 32,
        feature_space="fs-0123456789ab",
        preset="geal",
        grid=GRID,
        untrained=untrained,
        budget=budget,
    )
    with Spool(path, settings) as spool:
        selector = spool.ladder()
        for drive in drives:
            spool.begin_source(drive)
            for frame in drive.frames():
                if isinstance(frame, LostFrame):
                    spool.pass_over(lost(frame, frame.reason, frame.detail))
                else:
                    judge(spool, selector, frame, clusters(rng))
            spool.finish_source(drive.name)
    return path


def selected(spool: Path) -> list[StoredFrame]:
    with open_view(spool) as view:
        return view.selected()


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of two drives; some lost, some retained, some evicted."""
    lost = {
        7: ("truncated", "the file ends before its image does."),
        9: ("empty", "0 bytes."),
        30: ("empty", "0 bytes."),
    }
    return fill(
        tmp_path_factory.mktemp("spools") / "trip",
        Drive(pictures_of(40), name="morning", lost=lost),
        Drive(pictures_of(20, 48, 48), name="evening"),
    )


@pytest.fixture(scope="module")
def page(spool: Path) -> "Page":
    return page_of(spool)


# -- a page as a browser reads it --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The page's elements, its text, and whether every element that was opened was closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]

    def card(self, order: int) -> "Page":
        found = re.search(rf'<li class="frame" id="frame-{order}">.*?</li>', self.html, re.DOTALL)
        assert found, f"no card {order}"
        return Page(found[0])

    def pictures(self) -> list[Pillow.Image]:
        return [
            Pillow.open(io.BytesIO(base64.b64decode(img["src"].removeprefix("data:image/jpeg;base64,"))))
            for img in self.all("img")
        ]


def page_of(source: Path) -> Page:
    out = source.with_name(source.name + ".html")
    write_report(source, out)
    return Page(out.read_text(encoding="utf-8"))


# -- what it says ------------------------------------------------------------------------------------------------------


def test_the_selected_frames_stand_in_their_order_with_what_each_added(spool: Path, page: Page) -> None:
    frames = selected(spool)

    cards = [attributes["id"] for attributes in page.all("li", **{"class": "frame"}) if "id" in attributes]
    assert cards == [f"frame-{order}" for order in range(1, len(frames) + 1)]
    for frame in frames[1:]:
        card = page.card(frame.order or 0)
        assert f"{frame.distance:.2f} from all before it" in card.text
        assert frame.id in card.text
        assert f"frame {frame.frame_index}" in card.text
        assert f"novelty {frame.novelty:.2f} when seen, radius then {frame.radius:.2f}" in card.text


def test_the_first_frame_has_no_outline_and_says_why(page: Page) -> None:
    first = page.card(1)

    assert "first of the round" in first.text
    assert first.all("path", **{"class": "edge"}) == []


def test_each_other_frame_is_outlined_where_its_witness_lies(spool: Path, page: Page) -> None:
    for frame in selected(spool)[1:]:
        (region,) = page.card(frame.order or 0).all("svg")
        (outline,) = [path["d"] for path in page.card(frame.order or 0).all("path") if path.get("class") == "edge"]

        assert region["viewbox"] == f"0 0 {GRID[1]} {GRID[0]}"
        assert region["preserveaspectratio"] == "none"  # frames are resized to the model's input without their aspect
        assert _inside(outline, GRID) == set(frame.witness_patches)


def test_what_lay_farthest_is_warmest_and_what_was_distilled_away_stays_cool(spool: Path, page: Page) -> None:
    for frame in selected(spool)[1:]:
        steps = [path for path in page.card(frame.order or 0).all("path") if "opacity" in path]
        hottest = max(steps, key=lambda path: float(path["opacity"]))
        distilled_away = {patch for patch, cluster in enumerate(frame.patch_cluster) if cluster < 0}

        assert set(frame.witness_patches) <= _squares(hottest["d"])
        assert not distilled_away & {patch for path in steps for patch in _squares(path["d"])}


def test_each_knowledge_cluster_has_a_colour_and_what_was_distilled_away_has_none(spool: Path, page: Page) -> None:
    for frame in selected(spool):
        card = page.card(frame.order or 0)
        shapes = {
            p["class"]: _inside(p["d"], GRID) for p in card.all("path") if re.fullmatch(r"c\d+", p.get("class", ""))
        }

        assert shapes == {
            f"c{cluster}": set(np.flatnonzero(frame.patch_cluster == cluster).tolist())
            for cluster in range(frame.patch_cluster.max() + 1)
        }


def test_the_clusters_of_a_picks_file_are_coloured_too(tmp_path: Path) -> None:
    page = page_of(picks_file(tmp_path / "picks.json", spec="drawn:7:25", picks=PICKS))

    for order in (1, 2, 3):
        shapes = {
            p["class"]: _inside(p["d"], GRID) for p in page.card(order).all("path") if p.get("class") in ("c0", "c1")
        }
        assert shapes == {"c0": set(range(7)), "c1": {7, 8}}


def test_every_colour_of_a_cluster_is_on_the_page_and_no_two_are_the_same(page: Page) -> None:
    colours = re.findall(r"\.c(\d+) \{ fill: (#\w{6}); \}", page.html)

    assert [int(number) for number, _ in colours] == list(range(COLOURS))
    assert len({colour for _, colour in colours}) == COLOURS


def test_one_switch_for_all_pictures_begins_with_what_was_new(page: Page) -> None:
    choices = page.all("input", type="radio", name="over")

    assert [choice["id"] for choice in choices] == ["over-nothing", "over-new", "over-clusters"]
    assert [choice["id"] for choice in choices if "checked" in choice] == ["over-new"]
    assert all(f"#{choice['id']}:checked" in page.html for choice in choices if "checked" not in choice)


@pytest.mark.parametrize("seed", range(20))
def test_an_outline_encloses_its_patches_and_no_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = (int(n) for n in rng.integers(1, 9, 2))
    patches = np.flatnonzero(rng.random(rows * columns) < rng.random()).tolist()

    for outset in (0.0, 0.12):
        assert _inside(outline_of(patches, (rows, columns), outset=outset), (rows, columns)) == set(patches)


def test_the_counts_and_reasons_are_told(spool: Path, page: Page) -> None:
    with open_view(spool) as view:
        counts, _ = view.counts()

    for state, words in (("seen", "seen"), ("not_new", "not new"), ("retained", "retained"), ("evicted", "evicted")):
        assert counts[state], "a test of nothing"
        assert f"{words}{counts[state]}" in page.text
    assert "2 empty, 1 truncated" in page.text
    assert "morning#7 the file ends before its image does." in page.text
    assert "budget 5" in page.text


def test_the_bundle_and_its_feature_space_are_named(page: Page) -> None:
    assert "bundleabababababab" in page.text
    assert "fs-0123456789ab" in page.text


def test_frames_retained_but_not_selected_are_folded_away_with_small_pictures(spool: Path, page: Page) -> None:
    with open_view(spool) as view:
        others = [frame for frame in view.retained() if frame.order is None]

    (fold,) = re.findall(r"<details>.*?</details>", page.html, re.DOTALL)
    folded = Page(fold)
    assert others, "a test of nothing"
    assert len(folded.pictures()) == len(others)
    assert all(frame.id in folded.text for frame in others)


def test_evicted_frames_are_told_one_by_one_with_why_each_gave_way(tmp_path: Path) -> None:
    pressed = tmp_path / "trip"
    fill(pressed, Drive([]))
    with closing(sqlite3.connect(pressed / "spool.db")) as database, database:
        database.execute("UPDATE rounds SET max_retained = 9")  # of a budget of 5: the limit is reached often
    fill(pressed, Drive(pictures_of(80), name="drive again"))
    with open_view(pressed) as view:
        evicted = view.evicted()

    page = page_of(pressed)
    (fold,) = re.findall(r'<details class="evicted">.*?</details>', page.html, re.DOTALL)
    told = Page(fold)
    assert {frame.cause for frame in evicted} == {"one_too_many", "max_retained"}, "a test of nothing"
    for frame in evicted:
        why = {
            "one_too_many": f"{frame.evicted_by} was one too many for the last radius that still held it",
            "max_retained": f"the limit on retained frames was reached with {frame.evicted_by}",
        }
        assert frame.cause
        when = f"{frame.id}frame {frame.frame_index:,}, at {clock(frame.capture_time_ns or 0)}"
        novelty = "seen first" if frame.novelty is None else f"{frame.novelty:.2f}"
        assert f"{when}{novelty}{frame.radius:.2f}{why[frame.cause]}" in told.text
    assert told.all("img") == []
    assert "the files were removed" in page.text


def test_only_the_newest_evicted_frames_are_told_and_all_are_counted(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_data, "EVICTED", 2)
    write_report(spool, tmp_path / "page.html")

    page = Page((tmp_path / "page.html").read_text())
    with open_view(spool) as view:
        evicted = view.evicted()
    (fold,) = re.findall(r'<details class="evicted">.*?</details>', page.html, re.DOTALL)
    assert f"{len(evicted)} frames were retained for a while" in page.text
    assert "Told are the 2 that were retained last" in page.text
    assert [frame.id in Page(fold).text for frame in evicted] == [True, True] + [False] * (len(evicted) - 2)


@pytest.mark.parametrize("untrained", [True, False])
def test_untrained_weights_are_told_in_a_banner(tmp_path: Path, untrained: bool) -> None:
    page = page_of(fill(tmp_path / "trip", Drive(pictures_of(3)), untrained=untrained))

    assert bool(page.all("p", **{"class": "warning"})) is untrained
    assert ("not what DINO would choose" in page.text) is untrained


def test_a_source_that_is_not_finished_is_told(tmp_path: Path) -> None:
    path = fill(tmp_path / "trip", Drive(pictures_of(3)))
    with Spool(path, _settings_of(path)) as spool:
        spool.begin_source(Drive(pictures_of(9), name="later"))

        page = page_of(path)  # beside the running writer

    assert "later is not read to its end yet" in page.text


def test_a_live_source_is_not_said_to_lack_an_end(tmp_path: Path) -> None:
    path = fill(tmp_path / "trip", Drive(pictures_of(3)))
    with Spool(path, _settings_of(path)) as spool:
        spool.begin_source(Drive([], name="live", spec="watch:/data/incoming", kind="live"))

        page = page_of(path)

    assert "live is live: what is not released yet may still change" in page.text
    assert "to its end" not in page.text


def test_a_frame_that_was_sent_has_no_picture_and_says_that_the_far_side_has_it(tmp_path: Path) -> None:
    path = fill(tmp_path / "trip", Drive(pictures_of(12)), budget=5)
    with closing(sqlite3.connect(path / "spool.db")) as database, database:
        database.execute("UPDATE units SET state = 'sent', release_order = 1 WHERE unit = 1")
        database.execute("UPDATE units SET state = 'released', release_order = 2 WHERE unit = 2")
        database.execute("CREATE TABLE pins (unit INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL)")
        database.execute("INSERT INTO pins VALUES (2, 0)")
        database.execute("INSERT INTO counters VALUES ('gated:dark', 3)")
    page = page_of(path)
    assert "It was sent: the far side has it." in page.card(1).text
    assert "released, pinned" in page.card(2).text
    assert "3 dark" in page.text


def test_frames_that_were_not_new_are_drawn_by_how_new_they_were(page: Page, tmp_path: Path) -> None:
    assert "Not new enough" in page.text
    assert "90% of what it was" in page.text
    assert "Not new enough" not in page_of(fill(tmp_path / "none", Drive(pictures_of(3)), budget=50)).text


def test_fewer_frames_than_the_budget_are_told(tmp_path: Path) -> None:
    page = page_of(fill(tmp_path / "trip", Drive(pictures_of(3)), budget=50))

    assert "of a budget of 50" in page.text


def test_a_spool_in_which_nothing_was_seen_has_a_page(tmp_path: Path) -> None:
    page = page_of(fill(tmp_path / "trip", Drive([])))

    assert "No frame is selected yet" in page.text
    assert "nothing is promised" in page.text


def test_what_recovery_and_pressure_did_is_told(tmp_path: Path) -> None:
    path = fill(tmp_path / "trip", Drive(pictures_of(3)))
    with Spool(path, _settings_of(path)) as spool:
        spool.event("orphan_removed", file="00000009.jpg")
        spool.event("foreign_file", file="holiday.jpg")
        spool.event("foreign_file", file="holiday.jpg")
        spool.event("radius_raised", cause="max_retained", levels=[1, 2], by="morning#3")
        spool.event("a_later_version_knows_this", anything=1)

    text = page_of(path).text
    assert "before its row was written: 00000009.jpg." in text
    assert "never touched: holiday.jpg." in text
    assert "2 of the smallest radii were given up" in text


# -- the certificate in words ------------------------------------------------------------------------------------------


def test_the_certificate_is_a_plain_sentence(spool: Path, page: Page) -> None:
    with open_view(spool) as view:
        certificate = view.certificate()

    assert certificate.radius is not None
    assert certificate.lower_bound
    assert (
        f"Every knowledge cluster seen lies within chord {certificate.radius:.2f} of a selected frame; "
        f"no 5 single patches could do better than {certificate.lower_bound:.2f}." in page.text
    )


def test_without_a_radius_none_is_promised() -> None:
    promise = spool_promise(Certificate(radius=None, lower_bound=0.74), budget=2, selected=2).sentence

    assert promise.startswith(
        "No radius is promised: what was seen is too varied for 2 frames to cover within chord 1.4"
    )
    assert promise.endswith("No 2 single patches could do better than 0.74.")


def test_a_bound_of_zero_is_no_claim() -> None:
    promise = spool_promise(Certificate(radius=0.2, lower_bound=0.0), budget=1, selected=1)

    assert promise.sentence == "Every knowledge cluster seen lies within chord 0.20 of a selected frame."
    assert promise.note.startswith("No limit is proved to how much better")


@pytest.mark.parametrize("seed", range(10))
def test_what_is_promised_of_picks_holds(seed: int) -> None:
    """The radius against the measured cover; the bound against the best of all choices of as many seen patches."""
    from itertools import combinations

    from geal_edge.runtime.distance import chord, squared_distances
    from geal_edge.runtime.kcenter import k_center_greedy, offsets_of

    rng = np.random.default_rng(seed)
    units = [clusters(rng, 2).rows for _ in range(9)]
    rows, offsets = np.concatenate(units), offsets_of(units)
    picks = k_center_greedy(rows, offsets, 4, first=0)
    promise = picks_promise([chord(p.squared) for p in picks], judged=9, preset="geal").sentence
    radius, bound = (float(number) for number in re.findall(r"\d\.\d\d", promise))

    chords = np.sqrt(squared_distances(rows, rows))
    picked = np.concatenate([np.arange(offsets[p.unit], offsets[p.unit + 1]) for p in picks])
    best = min(chords[:, list(some)].min(axis=1).max() for some in combinations(range(len(rows)), 3))
    assert chords[:, picked].min(axis=1).max() <= radius + 0.005
    assert "no 3 single patches" in promise
    assert bound <= best + 0.005


def test_nothing_is_promised_of_picks_that_are_not_farthest_first() -> None:
    assert "No radius" in picks_promise([0.0, 0.8, 0.9], judged=10, preset="geal").sentence
    assert "No radius" in picks_promise([0.0, 0.9, 0.8], judged=10, preset="freesel").sentence
    assert "No radius" in picks_promise([0.7, 0.6, 0.5], judged=10, preset="geal", known=True).sentence


# -- the time line -----------------------------------------------------------------------------------------------------


def test_retained_frames_stand_on_the_time_line_where_they_were_seen(tmp_path: Path) -> None:
    """Unfolded buckets are one frame wide: the place is exact, lost frames before it included."""
    drive = Drive(pictures_of(40), lost={3: ("empty", ""), 11: ("empty", "")})
    report = read_spool_report(fill(tmp_path / "trip", drive))

    shown = [*report.selected, *report.others]
    assert len(shown) > 5
    assert all(frame.seen_at == frame.frame_index + 0.5 for frame in shown)


def test_folded_buckets_still_hold_their_retained_frames(tmp_path: Path) -> None:
    path = tmp_path / "trip"
    drive = Drive(pictures_of(1300, 4, 4))
    report = read_spool_report(fill(path, drive, budget=3))

    assert report.timeline is not None
    width = report.timeline.width
    assert width > 1
    for frame in [*report.selected, *report.others]:
        assert frame.seen_at is not None
        assert frame.seen_at // width == frame.frame_index // width


def test_every_selected_frame_is_marked_on_the_time_line(page: Page) -> None:
    marks = [a["href"] for a in page.all("a") if a["href"].startswith("#frame-")]

    assert marks == [f"#frame-{order}" for order in range(1, 6)]


# -- a picks file ------------------------------------------------------------------------------------------------------


def picks_file(path: Path, *, spec: str, picks: list[tuple[int, float]], **changes: Any) -> Path:
    """A picks file over one source, `drive`; picks are (frame index, distance)."""
    data = {
        "schema": "geal-edge/picks/1",
        "producer": "geal-edge 0.1.0",
        "bundle": "sha256:" + "ab" * 32,
        "feature_space": "fs-0123456789ab",
        "preset": "geal",
        "untrained": False,
        "seed": 0,
        "budget": 3,
        "frames": {"seen": 30, "lost": 2, "selected": len(picks)},
        "lost": {"empty": 2},
        "sources": [{"name": "drive", "spec": spec, "kind": "drawn", "fps": None}],
        "picks": [
            {
                "order": order,
                "unit": f"drive#{index}",
                "id": f"drive#{index}",
                "sha256": None,
                "source": "drive",
                "frame_index": index,
                "capture_time_ns": index * 200_000_000,
                "distance": distance,
                "witness": {"patches": [] if order == 1 else [7, 8], "grid": list(GRID)},
                "clusters": {"distances": [] if order == 1 else [0.2, 1.0], "patches": [0] * 7 + [1, 1] + [-1] * 15},
            }
            for order, (index, distance) in enumerate(picks, start=1)
        ],
    }
    path.write_text(json.dumps({**data, **changes}))
    return path


PICKS = [(20, 0.0), (3, 1.25), (11, 0.5)]


def test_picked_frames_are_read_again_from_their_source(tmp_path: Path) -> None:
    page = page_of(picks_file(tmp_path / "picks.json", spec="drawn:7:25", picks=PICKS))

    source = {frame.frame_index: frame for frame in open_source("drawn:7:25").frames()}
    for picture, (index, _) in zip(page.pictures(), PICKS, strict=True):
        frame = source[index]
        assert isinstance(frame, Frame)
        same = np.asarray(Pillow.fromarray(frame.image).resize(picture.size), np.int16)
        assert np.abs(np.asarray(picture, np.int16) - same).mean() < 6  # of 255: a JPEG of the same picture
    assert "Every knowledge cluster seen lies within chord 0.50 of a selected frame" in page.text
    assert "novelty" not in page.text  # nothing was judged while it was seen


def test_a_source_is_read_once_and_not_beyond_its_last_pick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    class Watched(Drive):
        def frames(self, after: int = -1) -> Iterator[Frame | LostFrame]:
            for frame in super().frames():
                decoded.append(frame.frame_index)
                yield frame

    monkeypatch.setattr(selection, "open_source", lambda spec, name, fps: Watched(pictures_of(100), name=name))
    summary = write_report(picks_file(tmp_path / "picks.json", spec="any", picks=PICKS), tmp_path / "page.html")

    assert summary.missing_images == 0
    assert decoded == list(range(21))


def test_a_source_that_is_gone_leaves_cards_that_say_so(tmp_path: Path) -> None:
    source = picks_file(tmp_path / "picks.json", spec="/not/there.mp4", picks=PICKS)

    summary = write_report(source, tmp_path / "page.html")

    assert (summary.frames, summary.missing_images) == (3, 3)
    assert Page((tmp_path / "page.html").read_text()).text.count("/not/there.mp4: no such file") == 3


def test_a_source_that_became_shorter_leaves_cards_that_say_so(tmp_path: Path) -> None:
    source = picks_file(tmp_path / "picks.json", spec="drawn:7:15", picks=PICKS)

    summary = write_report(source, tmp_path / "page.html")

    assert summary.missing_images == 1
    assert "has no such frame any more" in Page((tmp_path / "page.html").read_text()).card(1).text


def test_an_image_that_changed_since_is_not_shown_as_the_picked_one(tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    picks = []
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        Pillow.fromarray(pictures_of(3)[i]).save(folder / name)
        digest = sha256((folder / name).read_bytes()).hexdigest()
        picks.append({"id": f"drive/{name}", "frame_index": i, "sha256": digest, "capture_time_ns": None})
    source = picks_file(tmp_path / "picks.json", spec=str(folder), picks=[(0, 0.0), (1, 1.0), (2, 0.9)])
    data = json.loads(source.read_text())
    for pick, change in zip(data["picks"], picks, strict=True):
        pick.update(change)
    source.write_text(json.dumps(data))

    assert len(page_of(source).pictures()) == 3
    Pillow.fromarray(pictures_of(5)[4]).save(folder / "b.png")
    (folder / "c.png").rename(folder / "d.png")
    page = page_of(source)

    assert len(page.pictures()) == 1
    assert "The file has changed since it was picked" in page.card(2).text
    assert "drive/d.png stands in its place now" in page.card(3).text


def test_a_relative_spec_is_looked_for_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drive").mkdir()
    Pillow.fromarray(pictures_of(1)[0]).save(tmp_path / "drive" / "a.png")
    source = picks_file(tmp_path / "picks.json", spec="drive", picks=[(0, 0.0)])
    source.write_text(source.read_text().replace("drive#0", "drive/a.png"))
    monkeypatch.chdir(tmp_path)

    assert write_report(source, tmp_path / "page.html").missing_images == 0


def test_a_picks_file_of_another_schema_is_refused_with_both_named(tmp_path: Path) -> None:
    source = picks_file(tmp_path / "picks.json", spec="drawn:7", picks=PICKS, schema="geal-edge/picks/9")

    with pytest.raises(UsageError, match=r"geal-edge/picks/9.*geal-edge/picks/1"):
        write_report(source, tmp_path / "page.html")


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no picks": lambda data: data.pop("picks"),
    "no lost": lambda data: data.pop("lost"),
    "no counts": lambda data: data["frames"].clear(),
    "no source spec": lambda data: data["sources"][0].pop("spec"),
    "sources are a number": lambda data: data.update(sources=3),
    "a pick is a word": lambda data: data.update(picks=["x"]),
    "no distance": lambda data: data["picks"][1].pop("distance"),
    "a distance that is no number": lambda data: data["picks"][1].update(distance=float("nan")),
    "a distance of null": lambda data: data["picks"][1].update(distance=None),
    "a patch off the grid": lambda data: data["picks"][1]["witness"].update(patches=[24]),
    "a patch of no cluster": lambda data: data["picks"][1]["clusters"].update(patches=[7]),
    "a patch without a cluster": lambda data: data["picks"][0]["clusters"]["patches"].pop(),
    "an empty grid": lambda data: data["picks"][1]["witness"].update(grid=[0, 0]),
    "a grid of one number": lambda data: data["picks"][1]["witness"].update(grid=[4]),
    "an order twice": lambda data: data["picks"][1].update(order=1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_picks_file_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    source = picks_file(tmp_path / "picks.json", spec="drawn:7:25", picks=PICKS)
    data = json.loads(source.read_text())
    DAMAGES[damage](data)
    source.write_text(json.dumps(data))

    with pytest.raises(UsageError, match="is not a whole picks file"):
        write_report(source, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, height", [(1280, 720), (1242, 375), (200, 900), (40, 30), (2000, 3)])
def test_a_thumbnail_keeps_the_aspect_and_is_never_enlarged(width: int, height: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)

    small = pictures.shrink(image, 320)

    with Pillow.open(io.BytesIO(small.jpeg)) as picture:
        assert picture.size == (small.width, small.height)
    scale = min(1.0, 320 / max(width, height))
    assert abs(small.width - width * scale) <= 1
    assert abs(small.height - height * scale) <= 1


def test_a_page_stays_below_40_kb_a_frame_even_for_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (640, 640, 3), dtype=np.uint8) for _ in range(6)]
    path = fill(tmp_path / "trip", Drive(noise), budget=6)

    summary = write_report(path, tmp_path / "page.html")

    assert summary.bytes == (tmp_path / "page.html").stat().st_size
    assert summary.bytes < summary.frames * 40_000


def test_a_frame_whose_file_is_gone_gets_a_card_that_says_so(tmp_path: Path) -> None:
    path = fill(tmp_path / "trip", Drive(pictures_of(6)), budget=6)
    second, third = selected(path)[1:3]
    second.file.unlink()
    third.file.write_bytes(b"\xff\xd8\xff torn")

    summary = write_report(path, tmp_path / "page.html")

    page = Page((tmp_path / "page.html").read_text())
    assert summary.missing_images == 2
    assert f"No picture. {second.file.name}: " in page.card(2).text
    assert f"No picture. {third.file.name}: " in page.card(3).text
    assert page.card(4).pictures()


def test_pictures_say_what_they_show(spool: Path, page: Page) -> None:
    second = selected(spool)[1]
    (picture,) = page.card(2).all("img")

    assert picture["alt"].startswith(f"Frame 2, {second.id}; what was new lies at the ")
    assert all(img["alt"] for img in page.all("img"))


def test_without_pillow_the_command_that_installs_it_is_told(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)

    with pytest.raises(MissingDependency, match=r"pip install 'geal-edge\[cpu\]'"):
        write_report(spool, tmp_path / "page.html")


# -- one safe page -----------------------------------------------------------------------------------------------------


def test_no_string_of_a_spool_becomes_markup(tmp_path: Path) -> None:
    drive = Drive(pictures_of(30), name=HOSTILE, spec=f"/x/{HOSTILE}", kind=HOSTILE, lost={4: (HOSTILE, HOSTILE)})
    page = page_of(fill(tmp_path / "trip", drive))

    _assert_harmless(page)


def test_no_string_of_a_picks_file_becomes_markup(tmp_path: Path) -> None:
    changes: dict[str, Any] = dict.fromkeys(("producer", "bundle", "feature_space", "preset"), HOSTILE)
    changes["lost"] = {HOSTILE: 2}
    changes["sources"] = [{"name": HOSTILE, "spec": HOSTILE, "kind": HOSTILE, "fps": None}]
    source = picks_file(tmp_path / f"{HOSTILE.replace('/', '')}.json", spec="", picks=PICKS, **changes)
    source.write_text(source.read_text().replace("drive", json.dumps(HOSTILE)[1:-1]))

    _assert_harmless(page_of(source))


def test_text_that_utf8_cannot_hold_is_shown_escaped(tmp_path: Path) -> None:
    source = picks_file(tmp_path / "picks.json", spec="drawn:7:25", picks=PICKS, producer="half a pair: \ud83d")

    assert "half a pair: \\ud83d" in page_of(source).text


def test_the_page_asks_for_nothing_outside_itself(page: Page) -> None:
    urls = [value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")]

    assert page.all("link") == []
    assert all(url.startswith(("data:image/jpeg;base64,", "#")) for url in urls)
    assert not re.search(r"url\(|@import|https?:", page.html)


def test_only_the_page_s_own_script_may_run(page: Page) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()

    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_every_link_has_its_target_and_every_id_is_given_once(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    links = {attributes["href"].removeprefix("#") for attributes in page.all("a")}

    assert len(ids) == len(set(ids))
    assert links <= set(ids)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_colour_schemes(page: Page, scheme: str) -> None:
    """4.5 : 1 is WCAG's AA for text of any size."""
    light, dark = re.findall(r":root \{(.*?)\}", page.html, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--(\w+): (#\w{6})", dark))

    for text in ("ink", "soft", "accent"):
        assert _contrast(colours[text], colours["paper"]) >= 4.5
    for text in ("ink", "accent"):
        assert _contrast(colours[text], colours["wash"]) >= 4.5


def test_the_same_spool_gives_the_same_page(spool: Path, tmp_path: Path) -> None:
    write_report(spool, tmp_path / "one.html")
    write_report(spool, tmp_path / "two.html")

    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_ordering_the_frames_and_writing_their_cards_can_be_watched(spool: Path, tmp_path: Path) -> None:
    class Watcher(Silent):
        def __init__(self) -> None:
            self.steps: dict[str, list[int]] = {}

        def begin(self, what: str, total: int | None) -> None:
            self.now = self.steps[what] = [total or 0, 0]

        def advance(self, **counts: int) -> None:
            self.now[1] += 1

    watcher = Watcher()
    write_report(spool, tmp_path / "page.html", watch=watcher)

    assert list(watcher.steps) == ["ordering the selected frames", "writing the page"]
    assert all(total == done > 0 for total, done in watcher.steps.values())


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_page_that_cannot_be_finished_leaves_the_old_one(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    out.write_text("the old page")

    def fail(*_: object) -> str:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(report_module.page, "sources", fail)
    with pytest.raises(RuntimeError):
        write_report(spool, out)

    assert out.read_text() == "the old page"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_what_is_no_spool_and_no_picks_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "words.json").write_text("words")

    with pytest.raises(UsageError, match="no such file or folder"):
        write_report(tmp_path / "absent", tmp_path / "page.html")
    with pytest.raises(SpoolError, match="no spool here"):
        write_report(tmp_path / "folder", tmp_path / "page.html")
    with pytest.raises(UsageError, match="not JSON"):
        write_report(tmp_path / "words.json", tmp_path / "page.html")


def test_where_the_page_cannot_stand_is_told(spool: Path, tmp_path: Path) -> None:
    picks = picks_file(tmp_path / "picks.json", spec="drawn:7:25", picks=PICKS)

    with pytest.raises(UsageError, match="is a folder"):
        write_report(spool, tmp_path)
    with pytest.raises(UsageError, match="would overwrite"):
        write_report(picks, picks)
    for out in (tmp_path / "absent" / "page.html", picks / "page.html"):
        with pytest.raises(StorageError, match="cannot be written"):
            write_report(spool, out)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _settings_of(path: Path) -> SpoolSettings:
    with open_view(path) as view:
        return SpoolSettings(
            bundle=view.meta["bundle"],
            feature_space=view.meta["feature_space"],
            preset=view.meta["preset"],
            grid=view.grid,
            untrained=view.untrained,
            budget=view.budget,
        )


def _squares(path: str) -> set[int]:
    """The patches of a path that has one square for each."""
    return {int(y) * GRID[1] + int(x) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", path)}


def _inside(outline: str, grid: tuple[int, int]) -> set[int]:
    """The patches whose middle lies inside an outline, by the even-odd rule: a ray to the right crosses an odd number of
    upright edges."""
    edges: list[tuple[float, float, float]] = []  # x, from y, to y
    for loop in outline.split("Z")[:-1]:
        first = re.match(r"M([\d.]+) ([\d.]+)", loop)
        assert first
        corners = [(float(first[1]), float(first[2]))]
        for command, value in re.findall(r"([HV])([\d.]+)", loop):
            x, y = corners[-1]
            corners.append((float(value), y) if command == "H" else (x, float(value)))
        corners.append(corners[0])
        edges += [(a[0], min(a[1], b[1]), max(a[1], b[1])) for a, b in pairwise(corners) if a[0] == b[0]]
    rows, columns = grid
    return {
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if sum(x > column + 0.5 and low < row + 0.5 < high for x, low, high in edges) % 2
    }


def _assert_harmless(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert all(img["src"].startswith("data:") for img in page.all("img"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert HOSTILE in page.text


def _contrast(one: str, other: str) -> float:
    """WCAG 2: the ratio of relative luminances."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
