"""Six cameras of two real vehicles, judged by unit: recorded, through the command, and live, pushed at a pace.

`make test-cameras`; skips where the shared sample data is absent.
"""

import threading
from collections import defaultdict
from pathlib import Path

import pytest

from geal_edge.errors import Interrupted
from geal_edge.runtime import pipeline
from geal_edge.runtime.budget import live_plan, parse_cap
from geal_edge.runtime.live import LiveSource, PushedCamera
from geal_edge.runtime.observer import Notice, Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spooldb import DATABASE, connection
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from tests.test_live import EVERY

BAG = Path(__file__).resolve().parents[3] / "shared" / "data" / "bags" / "made_nuscenes_6cam.mcap"
INSTANTS, CAMERAS, GROUP_S = 9, 6, 0.05
"""The six stamps of an instant lie within 43 ms, the instants seconds apart."""
BUDGET = 4

pytestmark = pytest.mark.skipif(not BAG.is_file(), reason=f"needs the shared sample data, {BAG.name}")


def units_of(spool: Path) -> dict[str, list[tuple[int, int]]]:
    """state -> (unit, its frames) of a spool."""
    found = defaultdict(list)
    with connection(spool / DATABASE) as db:
        query = "SELECT state, unit, count(*) FROM units JOIN frames USING (unit) GROUP BY unit ORDER BY unit"
        for state, unit, frames in db.execute(query):
            found[state].append((unit, frames))
    return found


def test_a_bag_of_six_cameras_is_budgeted_selected_and_evicted_by_unit(cli, tiny_bundle, tmp_path):
    spool = tmp_path / "s"
    words = ["--group", GROUP_S, "--bundle", tiny_bundle.path, "--spool", spool, "--budget", BUDGET, "--quiet"]
    code, _, err = cli("run", BAG, "--topic", "/cam_*", *words)
    assert code == 0, err
    with open_view(spool) as view:
        counts, _ = view.counts()
        units = view.units()
        selected = list(view.list_lines())
        events = [event for event in view.events() if event["name"] == "units_evicted"]
        assert view.check() == []
    by_state = units_of(spool)
    assert counts["seen"] == INSTANTS * CAMERAS
    assert all(frames == CAMERAS for state in by_state.values() for _, frames in state)
    assert units["selected"] == BUDGET
    assert counts["selected"] == len(selected) == BUDGET * CAMERAS
    assert counts["evicted"] == CAMERAS * len(by_state["evicted"])
    assert sum(len(event["units"]) for event in events) == counts["evicted"]
    stored = {path.name for path in (spool / "frames").iterdir()}
    assert len(stored) == CAMERAS * len(by_state["retained"])
    assert {name.partition(".")[0].partition("-")[0] for name in stored} == {
        f"{u:08d}" for u, _ in by_state["retained"]
    }


def test_a_byte_budget_releases_whole_units_of_six_cameras(encoder, tmp_path):
    source = open_source(str(BAG), topics=["/cam_*"], group_s=GROUP_S)
    instant_bytes = 6 * 250_000
    run_live(encoder, tmp_path / "s", ["50/trip", f"{3 * instant_bytes}B/trip"], list(source.frames()))
    with open_view(tmp_path / "s") as view:
        counts, _ = view.counts()
        sent = sum(line["bytes"] for line in view.list_lines())
    released = units_of(tmp_path / "s")["released"]
    assert 1 < len(released) < INSTANTS
    assert counts["released"] == CAMERAS * len(released)
    assert 0 < sent <= 3 * instant_bytes


def test_six_live_cameras_that_are_pushed_at_a_pace_form_the_same_units(encoder, tmp_path):
    frames = list(open_source(str(BAG), topics=["/cam_*"], group_s=GROUP_S).frames())
    run_live(encoder, tmp_path / "live", [f"{BUDGET}/day"], frames)
    recorded = open_source(str(BAG), topics=["/cam_*"], group_s=GROUP_S)
    pipeline.run(
        [recorded], encoder=encoder, spool_path=tmp_path / "bag", budget=BUDGET, group_s=GROUP_S, watch=Silent()
    )
    found = {}
    for name in ("live", "bag"):
        with open_view(tmp_path / name) as view:
            counts, lost = view.counts()
            assert view.check() == []
            found[name] = {line["capture_time_ns"] for line in view.list_lines(retained=True)}
        assert counts["seen"] == INSTANTS * CAMERAS, lost
        assert all(frames == CAMERAS for state in units_of(tmp_path / name).values() for _, frames in state)
    assert found["live"] >= {
        min(found["bag"])
    }  # the first instant is new to both; a day's fill may choose others after it


def run_live(encoder, spool, caps, frames):
    """All frames through six pushed cameras, an instant when the one before it was judged; then the trip is over."""
    cameras = {topic: PushedCamera(topic.strip("/").replace("/", "-")) for topic in sorted({f.topic for f in frames})}
    stop, judged, started = Stop(), threading.Semaphore(0), threading.Semaphore(0)

    class Judged(Silent):
        def advance(self, **counts: int) -> None:
            judged.release()

    class OneTrip(LiveSource):
        def take_notices(self) -> list[Notice]:
            notices = super().take_notices()
            for _ in [notice for notice in notices if notice.name == "camera_started"]:
                started.release()
            return notices

        def take_end_of_trip(self) -> bool:
            over = super().take_end_of_trip()
            if over:
                stop.ask()
            return over

    def push() -> None:
        for _ in cameras:
            started.acquire()  # an instant does not wait long for a camera that is not there yet
        for begin in range(0, len(frames), CAMERAS):
            for frame in frames[begin : begin + CAMERAS]:
                while not cameras[frame.topic].offer(frame.encoded, capture_time_ns=frame.capture_time_ns):
                    assert begin == 0  # nobody runs this camera yet
            for _ in range(CAMERAS):
                judged.acquire()
        next(iter(cameras.values())).end_trip()

    source = OneTrip(list(cameras.values()), rate_hz=EVERY, group_s=GROUP_S, latency_s=60.0)
    thread = threading.Thread(target=push)
    thread.start()
    plan = live_plan([parse_cap(cap) for cap in caps])
    with pytest.raises(Interrupted):
        pipeline.run(
            [source], encoder=encoder, spool_path=spool, budget=plan, group_s=GROUP_S, watch=Judged(), stop=stop
        )
    thread.join()
