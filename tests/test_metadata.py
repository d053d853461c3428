"""What a vehicle says of its frames: from every kind of sender into the spool, and out again."""

import json
import sqlite3
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geal_edge.errors import Interrupted, UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.extract import extract
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.live import LiveSource, PushedCamera, open_live
from geal_edge.runtime.live.sock import FILE, HEADER, MAGIC
from geal_edge.runtime.metadata import MAX_BYTES, checked, forget_metadata, read_metadata
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.report import write_report
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.why import why
from tests.test_live import DAY, EVERY, picture
from tests.test_live_cameras import next_frame, running, sender, wait_for_event

SAID = {"speed_kmh": 31.5, "gear": "D", "tag": "Nässe", "detections": [{"class": "car", "score": 0.9}]}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def run(encoder, spool, count: int, said) -> None:
    """A vehicle that pushes pictures until so many were judged; `said` of a number is its metadata."""
    camera, stop, taken = PushedCamera("front"), Stop(), threading.Semaphore(1)

    class Counting(Silent):
        left = count

        def advance(self, **counts: int) -> None:
            self.left -= 1
            taken.release()
            if not self.left:
                stop.ask()

    def push() -> None:
        number = 0
        while not stop.asked and taken.acquire(timeout=10.0):
            more = {"capture_time_ns": number * 10**9, "metadata": said(number)}
            while not camera.offer(picture(number), **more) and not stop.asked:
                pass
            number += 1

    thread = threading.Thread(target=push)
    thread.start()
    try:
        source = LiveSource([camera], rate_hz=EVERY)
        pipeline.run([source], encoder=encoder, spool_path=spool, budget=DAY, watch=Counting(), stop=stop)
    except Interrupted:
        pass
    finally:
        stop.ask()
        taken.release()
        thread.join()


def test_what_was_said_of_a_retained_frame_is_listed_explained_extracted_and_shown(encoder, tmp_path):
    run(encoder, tmp_path / "s", 3, lambda number: {**SAID, "number": number} if number else {})
    with open_view(tmp_path / "s") as view:
        lines = {line["id"]: line.get("metadata") for line in view.list_lines(retained=True)}
        explained = why(view, "live#front@2000000000")["metadata"]
    assert lines == {
        "live#front@0": None,
        "live#front@1000000000": {**SAID, "number": 1},
        "live#front@2000000000": {**SAID, "number": 2},
    }
    assert explained == {**SAID, "number": 2}
    extract(tmp_path / "s", tmp_path / "out", format_name="images")
    written = [json.loads(line) for line in (tmp_path / "out" / "frames.jsonl").read_text().splitlines()]
    assert {line["id"]: line.get("metadata") for line in written} == lines
    write_report(tmp_path / "s", tmp_path / "page.html")
    assert "&quot;tag&quot;: &quot;Nässe&quot;" in (tmp_path / "page.html").read_text()


def test_metadata_goes_with_the_unit_that_is_evicted(encoder, tmp_path):
    run(encoder, tmp_path / "s", 3, lambda number: {"number": number})
    with sqlite3.connect(tmp_path / "s" / "spool.db") as db:
        assert db.execute("SELECT count(*) FROM metadata").fetchone() == (3,)
    forget_metadata(db, 1)
    assert [unit for (unit,) in db.execute("SELECT unit FROM metadata")] == [2, 3]
    db.close()


def test_a_spool_of_an_earlier_version_has_none_and_is_read(encoder, tmp_path):
    run(encoder, tmp_path / "s", 1, lambda number: {})
    with sqlite3.connect(tmp_path / "s" / "spool.db") as db:
        db.execute("DROP TABLE metadata")
    db.close()
    with open_view(tmp_path / "s") as view:
        assert ["metadata" in line for line in view.list_lines(retained=True)] == [False]


def framed(data: bytes, said: bytes) -> bytes:
    return HEADER.pack(MAGIC, FILE, 5, len(data), 0, 0, 0, len(said), b"") + data + said


def test_a_socket_carries_it_behind_the_picture_and_what_is_no_json_loses_nothing_else(tmp_path):
    path, jpeg = tmp_path / "front.sock", encode(picture(1), "jpg")
    source = open_live([f"unix:{path}"], rate_hz=EVERY)
    with running(source) as stream, sender(path) as sending:
        sending.sendall(framed(jpeg, json.dumps(SAID).encode()))
        assert next_frame(stream).metadata == SAID
        sending.sendall(framed(jpeg, b'{"speed_kmh": NaN'))
        bad = next_frame(stream)
        assert "not JSON" in str(wait_for_event(stream, source, "metadata_unreadable")["detail"])
        sending.sendall(framed(jpeg, b""))
        assert next_frame(stream).metadata == {}
    assert (bad.encoded, bad.metadata) == (jpeg, {})


def test_in_a_watched_folder_it_is_the_json_of_the_same_name(tmp_path):
    source = open_live([f"watch:{tmp_path}"], rate_hz=EVERY)
    with running(source) as stream:
        wait_for_event(stream, source, "camera_started")
        (tmp_path / "a.json").write_text(json.dumps(SAID))
        (tmp_path / "a.png").write_bytes(encode(picture(1), "png"))
        assert next_frame(stream).metadata == SAID
        (tmp_path / "b.png").write_bytes(encode(picture(2), "png"))
        assert next_frame(stream).metadata == {}
        (tmp_path / "c.json").mkdir()
        (tmp_path / "c.png").write_bytes(encode(picture(3), "png"))
        assert next_frame(stream).metadata == {}
        assert "c.json" in str(wait_for_event(stream, source, "metadata_unreadable")["detail"])


@pytest.mark.parametrize(
    "wrong",
    [{"x": float("nan")}, {"x": "\ud800"}, {"x": object()}, {"x": np.float32(1)}, ["x"], {"x": "y" * MAX_BYTES}],
    ids=["nan", "surrogate", "object", "numpy", "list", "large"],
)
def test_what_json_cannot_hold_is_refused_where_it_is_offered(wrong):
    with pytest.raises(UsageError, match="metadata"):
        PushedCamera("front").offer(picture(), metadata=wrong)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_what_was_read_is_what_was_written(value):
    assert read_metadata(json.dumps(value).encode()) == checked(value) == value


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789eE+-.\\ud8NaInfity', max_size=200).map(str.encode))
def test_no_bytes_do_more_than_be_refused(data):
    try:
        said = read_metadata(data)
    except UsageError:
        return
    json.dumps(said, ensure_ascii=False, allow_nan=False).encode()
