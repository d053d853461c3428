"""What Prometheus is told, on both ways, and what the endpoint does not let anybody do."""

import re
import shutil
import socket
import sqlite3
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geal_edge.config import MetricsConfig, UploadConfig
from geal_edge.errors import FrameError, UploadError
from geal_edge.runtime import pipeline
from geal_edge.runtime.exporter import MAX_REQUEST_BYTES, WAITING, Exporter
from geal_edge.runtime.frame import LostFrame
from geal_edge.runtime.metrics import METRICS
from geal_edge.runtime.observer import Notice, Silent
from geal_edge.runtime.outbox import Outbox, release_recorded
from geal_edge.runtime.sources.drawn import DrawnDrive
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import DATABASE
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.telemetry import Telemetry
from geal_edge.runtime.units import JudgedUnit
from geal_edge.runtime.upload.uploader import Uploader
from tests.fakes import Clock
from tests.farside import fill_spool
from tests.test_spool import settings as spool_settings
from tests.test_telemetry import told

PROMTOOL = shutil.which("promtool")
LINE = re.compile(r"(geal_edge_\w+)(?:\{(.*)\})? (\S+)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ran(tiny_bundle, tmp_path_factory):
    """A spool of a drive, and what its run told of itself."""
    from geal_edge.runtime.backends.ort import OrtCpu
    from geal_edge.runtime.encoder import Encoder

    telemetry, spool = told(), tmp_path_factory.mktemp("ran") / "s"
    with Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as encoder:
        pipeline.run(
            [DrawnDrive(1, 20)], encoder=encoder, spool_path=spool, budget=4, telemetry=telemetry, watch=Silent()
        )
    return telemetry, spool


@pytest.fixture
def exporter(ran) -> Iterator[Callable[..., Any]]:
    """Makes one that is entered, and gives it with what it notes."""
    made = []

    def make(
        spool: Path | None = None, telemetry: Telemetry | None = None, **config: Any
    ) -> tuple[Exporter, list[Notice]]:
        notices: list[Notice] = []
        new = Exporter(MetricsConfig(**config), telemetry or ran[0], spool or ran[1], notices.append)
        made.append(new.__enter__())
        return new, notices

    yield make
    for each in made:
        each.__exit__(None, None, None)


def values(page: str) -> dict[str, float]:
    found = [LINE.fullmatch(line) for line in page.splitlines() if not line.startswith("#")]
    assert all(found)
    return {f"{m[1]}{{{m[2]}}}" if m[2] else m[1]: float(m[3]) for m in found if m}


def get(exporter: Exporter, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    assert exporter.address is not None
    host, port = exporter.address
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_what_is_told_is_what_the_spool_has_and_the_run_knows(exporter, ran):
    page = values(exporter()[0].page())
    with open_view(ran[1]) as view:
        frames, _ = view.counts()
    assert page["geal_edge_frames_seen_total"] == frames["seen"] == 20
    assert page['geal_edge_frames_total{state="not_new"}'] == frames["not_new"]
    assert sum(n for name, n in page.items() if name.startswith("geal_edge_frames_total{")) == frames["seen"]
    assert page['geal_edge_spool_frames{state="retained"}'] == frames["retained"]
    assert page['geal_edge_stage_seconds_count{stage="encode"}'] == 20
    assert page['geal_edge_stage_seconds_bucket{stage="encode",le="+Inf"}'] == 20
    assert page["geal_edge_temperature_celsius"] == 61.5
    assert page['geal_edge_budget_limit{unit="frames",period="all"}'] == 4
    assert (page["geal_edge_spool_readable"], page["geal_edge_uploader_up"]) == (1, 0)


def test_what_a_spool_counts_never_goes_back_whatever_a_crash_takes(exporter, tmp_path):
    fill_spool(tmp_path / "s", 3)
    told_before = []
    with suppress(RuntimeError), Spool(tmp_path / "s", spool_settings()) as spool:
        for index in range(3, 9):
            lost = LostFrame(
                id=f"m#{index}", source="memory", frame_index=index, capture_time_ns=None, reason="torn", detail=""
            )
            spool.pass_over(JudgedUnit(frames=(), lost=((lost, FrameError("torn", "")),)))
            told_before.append(values(exporter(tmp_path / "s")[0].page())["geal_edge_frames_seen_total"])
            if index == 5:
                spool.flush()
        raise RuntimeError  # in the middle of a frame: what was not stored is not
    told_after = values(exporter(tmp_path / "s")[0].page())["geal_edge_frames_seen_total"]
    assert told_before == [3, 3, 3, 6, 6, 6]
    assert told_after == 6


def test_before_the_first_frame_and_without_a_spool_what_is_known_is_told(exporter, tmp_path):
    page = values(exporter(tmp_path / "none", Telemetry())[0].page())
    assert {name for name in page if "stage_seconds" not in name} == {"geal_edge_spool_readable"}
    assert page["geal_edge_spool_readable"] == 0


def test_what_the_uploader_did_is_told_from_the_spool_while_it_is_there_and_after(exporter, tmp_path):
    fill_spool(tmp_path / "s", 5, size=50)
    release_recorded(tmp_path / "s")
    replies: list[UploadError | None] = [
        UploadError("retry", "timeout", "slow"),
        UploadError("retry", "timeout", "slow"),
        UploadError("set_aside", "refused", "never"),
    ]

    class Far:
        def put(self, key, data, *, replace=False):
            if (reply := replies.pop(0) if replies else None) is not None:
                raise reply
            return "checksum"

    clock = Clock()
    for steps in (4, 1):  # as two processes
        with Outbox(tmp_path / "s") as outbox:
            config = UploadConfig(to="x", metered="no")
            uploader = Uploader(outbox, Far(), config, vehicle="car", rng=np.random.default_rng(0), monotonic=clock)
            for _ in range(steps):
                clock.advance(uploader.wait_s)
                uploader.step()
            shown = values(exporter(tmp_path / "s")[0].page())
            assert shown["geal_edge_uploader_up"] == 1
    page = values(exporter(tmp_path / "s")[0].page())
    assert page["geal_edge_uploader_up"] == 0
    assert page['geal_edge_upload_failures_total{reason="timeout"}'] == 2
    assert page['geal_edge_upload_set_aside_units{reason="refused"}'] == 1
    assert page["geal_edge_uploaded_frames_total"] == page['geal_edge_spool_frames{state="sent"}'] == 2
    assert page["geal_edge_uploaded_bytes_total"] > 100
    assert (page["geal_edge_upload_waiting_units"], page['geal_edge_upload_link{state="sending"}']) == (2, 1)
    assert page["geal_edge_upload_oldest_age_seconds"] > 0


def test_what_was_stored_before_the_clock_was_set_has_no_age_and_hides_no_other(exporter, tmp_path, cli):
    fill_spool(tmp_path / "s", 2)
    release_recorded(tmp_path / "s")
    with closing(sqlite3.connect(tmp_path / "s" / DATABASE)) as db, db:
        db.execute("UPDATE frames SET stored_ns = ? WHERE frame = (SELECT min(frame) FROM frames)", (60 * 10**9,))
    assert 0 < values(exporter(tmp_path / "s")[0].page())["geal_edge_upload_oldest_age_seconds"] < 3600
    assert "2 units not sent, the oldest stored 0.0 days ago" in cli("status", tmp_path / "s")[1]
    with closing(sqlite3.connect(tmp_path / "s" / DATABASE)) as db, db:
        db.execute("UPDATE frames SET stored_ns = ?", (60 * 10**9,))
    assert "geal_edge_upload_oldest_age_seconds" not in values(exporter(tmp_path / "s")[0].page())
    assert "2 units not sent\n" in cli("status", tmp_path / "s")[1]


def test_promtool_finds_nothing_wrong_with_what_is_told(exporter):
    if PROMTOOL is None:
        pytest.skip("needs promtool")
    page = exporter()[0].page()
    said = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_every_metric_that_is_told_is_one_of_those_described():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert (metric.source == "now") == (metric.kind == "gauge")


def test_the_endpoint_answers_get_metrics_and_nothing_else(exporter):
    shown, notices = exporter(listen=free_port())
    assert shown.address[0] == "127.0.0.1"
    status, page = get(shown)
    assert status == 200
    assert values(page)["geal_edge_frames_seen_total"] == 20
    assert [get(shown, path)[0] for path in ("/", "/metrics/..", "/etc/passwd", "//metrics")] == [404] * 4
    assert [get(shown, method=method)[0] for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS")] == [405] * 5
    assert notices == []


@contextmanager
def connected(exporter: Exporter) -> Iterator[socket.socket]:
    assert exporter.address is not None
    with socket.create_connection(exporter.address, timeout=30) as connection:
        yield connection


def said_to(exporter: Exporter, data: bytes) -> bytes:
    with connected(exporter) as connection, suppress(ConnectionError):
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(4096), b""))
    return b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1 more\r\n\r\n", b"400"),
        (b"\0\xff\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"a" * MAX_REQUEST_BYTES + b"\r\n\r\n", None),
    ],
)
def test_what_is_no_request_is_refused_and_the_next_one_is_answered(exporter, data, status):
    shown, _ = exporter(listen=free_port())
    answer = said_to(shown, data)
    assert (answer.split(b" ")[1] if answer else None) == status
    assert get(shown)[0] == 200


def test_who_says_nothing_is_left_after_a_while_and_the_others_are_answered(exporter, monkeypatch):
    monkeypatch.setattr("geal_edge.runtime.exporter.ANSWER_S", 0.2)
    shown, _ = exporter(listen=free_port())
    with connected(shown) as silent, connected(shown) as slow:
        slow.sendall(b"GET /metr")
        assert get(shown)[0] == 200
        assert (silent.recv(1), slow.recv(1)) == (b"", b"")


def test_who_asks_again_at_once_gets_the_same_page(exporter):
    shown, _ = exporter(listen=free_port())
    made = []
    read = shown._read_spool

    def counted():
        made.append(1)
        return read()

    shown._read_spool = counted
    answers = [get(shown) for _ in range(5)]
    assert {status for status, _ in answers} == {200}
    assert len({page for _, page in answers}) == len(made)


def test_many_connections_at_once_are_no_more_threads(exporter):
    shown, _ = exporter(listen=free_port())
    before = threading.active_count()
    open_: list[socket.socket] = []
    try:
        for _ in range(4 * WAITING):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(shown.address)
            open_.append(connection)
        assert threading.active_count() == before
    finally:
        for connection in open_:
            connection.close()
    assert get(shown)[0] == 200


def test_a_port_that_is_taken_is_an_event_and_no_reason_to_stop(exporter):
    port = free_port()
    first, _ = exporter(listen=port)
    second, notices = exporter(listen=port)
    assert second.address is None
    assert [(notice.name, notice.detail["reason"]) for notice in notices] == [
        ("metrics_unavailable", "Address already in use")
    ]
    first.__exit__(None, None, None)
    second._bind()  # as it does every half a minute
    assert [notice.name for notice in notices[1:]] == ["metrics_back"]


def test_the_file_is_whole_for_everybody_to_read_and_gone_with_the_run(exporter, tmp_path):
    file = tmp_path / "geal-edge.prom"
    written, notices = exporter(textfile=file, every_s=1.0)
    while not file.exists():
        pass
    assert file.stat().st_mode & 0o777 == 0o644
    assert values(file.read_text())["geal_edge_frames_seen_total"] == 20
    written.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []
    assert notices == []


def test_a_file_that_cannot_be_written_is_an_event_and_the_endpoint_goes_on(exporter, tmp_path):
    shown, notices = exporter(textfile=tmp_path / "none" / "a.prom", listen=free_port())
    assert get(shown)[0] == 200
    assert [notice.name for notice in notices] == ["metrics_unavailable"]


def test_a_fault_in_what_is_told_is_an_answer_and_the_thread_lives(exporter):
    broken = Telemetry()
    broken.snapshot = {"powered_s": "?"}
    shown, _ = exporter(telemetry=broken, listen=free_port())
    assert [get(shown)[0], get(shown)[0]] == [500, 500]
