import json
import os
import socket
from contextlib import closing
from datetime import datetime, timezone
from hashlib import sha256

import numpy as np
import pytest

from geal_edge.config import UploadConfig
from geal_edge.errors import UploadError, UploadUnfinished, UsageError
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.outbox import Outbox, release_recorded
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.trips import trip_of
from geal_edge.runtime.upload import objects, service
from geal_edge.runtime.upload.heartbeat import MAX_BYTES, heartbeat
from geal_edge.runtime.upload.objects import classified, credentials
from geal_edge.runtime.upload.store import open_store, without_secrets
from geal_edge.runtime.upload.uploader import Step, Uploader
from geal_edge.runtime.vehicletime import Moment
from geal_edge.runtime.why import sentence, why
from tests.fakes import Clock, MemorySource
from tests.farside import BadLink, DavServer, fill_spool, serving
from tests.sending import send_all
from tests.test_spool import settings


class FakeStore:
    """A far side in memory that answers with `replies` first, each an UploadError to raise or None."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.replies: list[UploadError | None] = []

    def put(self, key, data, *, replace=False):
        if (reply := self.replies.pop(0) if self.replies else None) is not None:
            raise reply
        self.objects[key] = data
        return "checksum"


def at(hour):
    return lambda: datetime(2026, 5, 11, hour, 30, tzinfo=timezone.utc)


NOW = Moment(boot_id="a" * 36, powered_s=100.0, wall_ns=1_780_000_000 * 10**9, synchronised=True)


@pytest.fixture
def spool(tmp_path):
    fill_spool(tmp_path / "s", 6, size=50)
    release_recorded(tmp_path / "s")
    return tmp_path / "s"


@pytest.fixture
def sender():
    """Makes uploaders with a far side and a clock of its own."""

    class Sender:
        def __init__(self):
            self.store, self.clock = FakeStore(), Clock()

        def uploader(self, outbox, *, hour=12, ask=lambda _: (-1, ""), **config):
            return Uploader(
                outbox,
                self.store,
                UploadConfig(to="x", **config),
                vehicle="car-1",
                rng=np.random.default_rng(0),
                monotonic=self.clock,
                local=at(hour),
                ask=ask,
            )

    return Sender()


def order(spool):
    with open_view(spool) as view:
        return [line["id"] for line in view.list_lines()]


def said(spool, id_):
    with open_view(spool) as view:
        return sentence(why(view, id_))


def complete(objects):
    """The ids that the far side has a sidecar of, by their place, each with a frame of the bytes that it names."""
    found = [json.loads(data) for key, data in objects.items() if key.endswith(".json") and "/status/" not in key]
    for sidecar in found:
        assert (
            sha256(objects[sidecar["key"]]).hexdigest() == sidecar["sha256"] == sidecar["key"].rpartition("/")[2][:64]
        )
    return [sidecar["id"] for sidecar in sorted(found, key=lambda s: s["order"])]


def failure(outcome, reason="unreachable"):
    return UploadError(outcome, reason, "no route to the far side")


def test_all_that_is_released_arrives_in_its_order_each_with_a_sidecar(spool, sender):
    expected = order(spool)
    with Outbox(spool) as outbox:
        uploader = sender.uploader(outbox, prefix="fleet/eu")
        steps = [uploader.step() for _ in range(7)]
    assert steps == [Step.SENT] * 6 + [Step.IDLE]
    assert complete(sender.store.objects) == expected == order(spool)
    assert all(key.startswith("fleet/eu/car-1/memory/") for key in sender.store.objects)
    assert "sent as fleet/eu/car-1/memory/" in said(spool, expected[0])


def test_a_refused_link_is_tried_again_later_and_later_and_why_says_so(spool, sender):
    with Outbox(spool) as outbox:
        uploader, waits = sender.uploader(outbox), []
        for _ in range(12):
            sender.store.replies = [failure("retry")]
            assert uploader.step() is Step.WAITING
            waits.append(uploader.wait_s)
            assert uploader.step() is Step.WAITING  # asked too soon, it does nothing
            sender.clock.advance(uploader.wait_s)
        assert 1.0 <= waits[0] <= 2.0
        assert 300.0 <= waits[-1] <= 600.0
        words = said(spool, order(spool)[1])
        assert "not sent yet: number 2 of those that wait" in words
        assert "no route to the far side" in words
        sender.store.replies = []
        assert uploader.step() is Step.SENT
    with open_view(spool) as view:
        assert [e["name"] for e in view.events() if "link" in e["name"]] == ["link_lost", "link_back"]


def test_what_the_far_side_will_not_take_is_set_aside_said_and_can_be_forced(spool, sender):
    first, *others = order(spool)
    with Outbox(spool) as outbox:
        uploader = sender.uploader(outbox)
        sender.store.replies = [failure("set_aside", "refused")]
        assert [uploader.step() for _ in range(7)] == [Step.SET_ASIDE] + [Step.SENT] * 5 + [Step.IDLE]
        assert complete(sender.store.objects) == others
        assert "set aside (refused), since no route" in said(spool, first)
        assert uploader.force(first) is Step.SENT
    assert complete(sender.store.objects) == order(spool)


def test_a_failure_that_needs_a_person_stops_the_uploader_and_loses_nothing(spool, sender):
    sender.store.replies = [failure("stop", "forbidden")]
    with Outbox(spool) as outbox, pytest.raises(UploadError, match="no route"):
        sender.uploader(outbox).step()
    assert "forbidden" in said(spool, order(spool)[0])
    with Outbox(spool) as outbox:
        uploader = sender.uploader(outbox)
        assert [uploader.step() for _ in range(6)] == [Step.SENT] * 6


def test_a_file_that_was_altered_or_is_gone_is_set_aside_and_not_sent(spool, sender):
    first, second = sorted((spool / "frames").iterdir())[:2]
    first.write_bytes(b"something else")
    second.unlink()
    with Outbox(spool) as outbox:
        uploader = sender.uploader(outbox)
        steps = [uploader.step() for _ in range(7)]
    assert steps.count(Step.SET_ASIDE) == 2
    assert len(complete(sender.store.objects)) == 4


def test_nothing_is_sent_outside_the_windows(spool, sender):
    with Outbox(spool) as outbox:
        assert sender.uploader(outbox, windows=("22:00-06:00",)).step() is Step.CLOSED
        assert "it waits for 22:00-06:00" in said(spool, order(spool)[0])
        assert sender.uploader(outbox, windows=("22:00-06:00",), hour=23).step() is Step.SENT


def test_on_a_metered_link_only_small_units_go(tmp_path, sender):
    fill_spool(tmp_path / "s", 3, size=299_999)  # and one byte more with each frame
    release_recorded(tmp_path / "s")
    with Outbox(tmp_path / "s") as outbox:
        uploader = sender.uploader(outbox, metered=("is-metered", "wwan0"), ask=lambda words: (0, ""))
        assert [uploader.step() for _ in range(3)] == [Step.SENT, Step.SENT, Step.METERED]
        assert "metered" in uploader.why
        free = sender.uploader(outbox, metered=("is-metered", "wwan0"), ask=lambda words: (1, ""))
        assert free.step() is Step.SENT


def test_the_bandwidth_is_held_on_average(spool, sender):
    began = sender.clock()
    with Outbox(spool) as outbox:
        uploader = sender.uploader(outbox, max_bytes_per_s=1000)
        while (step := uploader.step()) is not Step.IDLE:
            if step is Step.WAITING:
                sender.clock.advance(uploader.wait_s)
    total = sum(map(len, sender.store.objects.values()))
    assert sender.clock() - began == pytest.approx(total / 1000, rel=0.3)


def test_a_folder_gets_everything_and_a_second_upload_changes_nothing(spool, tmp_path, cli):
    (tmp_path / "far").mkdir()
    expected = order(spool)
    assert cli("upload", spool, "--to", tmp_path / "far", "--once", "--vehicle", "car-1")[0] == 0
    files = {str(p.relative_to(tmp_path / "far")): p.read_bytes() for p in (tmp_path / "far").rglob("*") if p.is_file()}
    assert complete(files) == expected
    beats = [json.loads(data) for name, data in sorted(files.items()) if name.startswith("car-1/status/")]
    assert {beat["schema"] for beat in beats} == {"geal-edge/heartbeat/1"}
    assert (
        beats[-1]["upload"]["waiting"] == 0
    )  # nothing follows it: a queue in it would stand in `status URL` until the next upload
    code, out, error = cli("upload", spool, "--to", tmp_path / "far", "--once", "--dry-run")
    assert (code, out) == (0, "")
    assert "nothing that is released waits" in error
    code, out, _ = cli("status", spool)
    assert "0 units wait" in out
    assert "6 sent" in out


def test_a_folder_that_is_not_mounted_ends_once_with_30_and_all_stays(spool, tmp_path, monkeypatch):
    monkeypatch.setattr(Uploader, "wait_s", 0.0)
    with pytest.raises(UploadUnfinished, match="is not there"):
        service.upload(spool, UploadConfig(to=str(tmp_path / "no")), once=True, watch=Silent(), now=lambda: NOW)
    assert len(list((spool / "frames").iterdir())) == 6


def test_outside_its_window_once_ends_with_30_at_once(spool, tmp_path):
    (tmp_path / "far").mkdir()
    now = datetime.now().astimezone()
    window = f"{(now.hour + 2) % 24:02d}:00-{(now.hour + 3) % 24:02d}:00"
    with pytest.raises(UploadUnfinished, match="it waits for"):
        service.upload(spool, UploadConfig(to=str(tmp_path / "far"), windows=(window,)), once=True, watch=Silent())
    assert list((tmp_path / "far").iterdir()) == []


def test_forcing_a_frame_that_does_not_wait_is_said(spool, tmp_path):
    (tmp_path / "far").mkdir()
    with pytest.raises(UsageError, match="is not a released frame that waits"):
        service.upload(spool, UploadConfig(to=str(tmp_path / "far")), force="nobody", watch=Silent())


def test_over_a_link_that_fails_in_every_way_all_arrive_once_byte_for_byte(tmp_path):
    fill_spool(tmp_path / "s", 40)
    release_recorded(tmp_path / "s")
    expected = order(tmp_path / "s")
    with DavServer() as server, serving(server) as port, BadLink(port, rate=0.3, seed=1) as link, serving(link) as bad:
        send_all(tmp_path / "s", f"http://127.0.0.1:{bad}/in")
        assert len(link.faults) > 4
        files = {path.removeprefix("/in/"): data for path, data in server.files.items()}
    assert complete(files) == expected
    assert len(files) == 2 * len(expected)
    with open_view(tmp_path / "s") as view:
        assert view.status()["upload"]["verified"] == {"size": 40}
        assert view.check() == []


@pytest.mark.parametrize("after", [3, 17, 40])
def test_of_a_link_that_is_cut_what_arrived_is_a_prefix_of_the_order(tmp_path, after):
    fill_spool(tmp_path / "s", 12)
    release_recorded(tmp_path / "s")
    expected, clock = order(tmp_path / "s"), Clock()
    with DavServer() as server, serving(server) as port, BadLink(port, rate=0.0, seed=0) as link, serving(link) as bad:
        link.on_request = lambda count: setattr(link, "cut", count > after)
        with Outbox(tmp_path / "s") as outbox:
            url = f"http://127.0.0.1:{bad}/in"
            rng, config = np.random.default_rng(0), UploadConfig(to=url)
            uploader = Uploader(outbox, open_store(url), config, vehicle="car-1", rng=rng, monotonic=clock)
            while uploader.failures < 3:
                uploader.step()
                clock.advance(uploader.wait_s)
        files = {path.removeprefix("/in/"): data for path, data in server.files.items()}
    arrived = complete(files)
    assert arrived == expected[: len(arrived)]
    assert len(arrived) < 12


@pytest.mark.parametrize(
    "status, outcome, reason",
    [
        (401, "stop", "credentials"),
        (403, "stop", "forbidden"),
        (404, "stop", "absent"),
        (409, "retry", "conflict"),
        (412, "retry", "conflict"),
        (413, "set_aside", "refused"),
        (429, "retry", "busy"),
        (500, "retry", "busy"),
        (503, "retry", "busy"),
    ],
)
def test_every_answer_of_a_server_has_its_consequence(status, outcome, reason):
    with DavServer() as server, serving(server) as port:
        server.status = status
        with pytest.raises(UploadError, match=r"a\.jpg") as caught:
            open_store(f"http://127.0.0.1:{port}/in").put("car/trip/a.jpg", b"bytes", replace=True)
    assert (caught.value.outcome, caught.value.reason) == (outcome, reason)


@pytest.mark.parametrize(
    "text, outcome, reason",
    [
        ("status code: 403 Forbidden: <Code>RequestTimeTooSkewed</Code>", "retry", "clock"),
        ("error sending request\nInvalidCertificate(\n   NotValidYetContext {", "retry", "clock"),
        ("error sending request\nInvalidCertificate(\n   ExpiredContext {", "retry", "clock"),
        ("error sending request\nInvalidCertificate(\n   UnknownIssuer,", "stop", "certificate"),
        ("status code: 400 Bad Request: <Code>ExpiredToken</Code>", "stop", "credentials"),
        ("Error performing PUT http://169.254.169.254/latest/api/token: error sending request", "stop", "credentials"),
        ("status code: 404 Not Found: <Code>NoSuchBucket</Code>", "stop", "absent"),
        (
            "Received redirect without LOCATION, this normally indicates an incorrectly configured region",
            "stop",
            "redirected",
        ),
        ("error sending request\nkind: Timeout", "retry", "timeout"),
        ("error sending request\ndns error: failed to lookup address", "retry", "dns"),
        ("something new", "retry", "unreachable"),
    ],
)
def test_what_the_library_says_has_its_consequence(text, outcome, reason):
    """As obstore 0.12 says it of real servers."""
    error = classified(OSError(text), "a.jpg")
    assert (error.outcome, error.reason) == (outcome, reason)


def test_a_server_that_says_nothing_is_a_time_out(monkeypatch):
    monkeypatch.setattr(objects, "timeout_s", lambda size: 1)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, pytest.raises(UploadError) as caught:
        open_store(f"http://127.0.0.1:{silent.getsockname()[1]}/in").put("a.jpg", b"bytes")
    assert (caught.value.outcome, caught.value.reason) == ("retry", "timeout")


def test_a_name_that_cannot_be_looked_up_and_a_port_that_nobody_serves_are_tried_again():
    for url in ("http://nowhere.invalid/in", "http://127.0.0.1:9/in", "https://127.0.0.1:9/in"):
        with pytest.raises(UploadError) as caught:
            open_store(url).put("a.jpg", b"bytes")
        assert caught.value.outcome == "retry"


def test_a_part_that_an_earlier_try_left_is_replaced():
    with DavServer() as server, serving(server) as port:
        server.files["/in/a.jpg"] = b"by"
        assert open_store(f"http://127.0.0.1:{port}/in").put("a.jpg", b"bytes") == "size"
        assert open_store(f"http://127.0.0.1:{port}/in").put("a.jpg", b"bytes") == "size"
        assert (server.files, server.puts) == ({"/in/a.jpg": b"bytes"}, ["/in/a.jpg"])


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@far.example/in",
        "https://far.example/in?sig=hunter2",
        "ftp://me:hunter2@far.example/in",
        "http://[far/in",
    ],
)
def test_a_url_with_a_secret_in_it_is_refused_without_repeating_it(url):
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_credentials_come_from_a_file_that_nobody_else_may_read(tmp_path):
    file = tmp_path / "secret"
    file.write_text("# ours\nAWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY = b=c\n")
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        credentials({"GEAL_EDGE_UPLOAD_CREDENTIALS": str(file)})
    file.chmod(0o600)
    found = credentials({"GEAL_EDGE_UPLOAD_CREDENTIALS": str(file)})
    assert found == {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b=c"}


def test_secrets_are_taken_out_of_what_is_said():
    assert "hunter2" not in without_secrets("PUT http://me:hunter2@far/in and http://far/a?X-Amz-Signature=hunter2")


def test_once_is_no_success_while_something_is_set_aside(spool, tmp_path, cli):
    (tmp_path / "far").mkdir()
    with open_view(spool) as view:
        next(view.outgoing()).frames[0].file.write_bytes(b"other")
    for _ in range(2):  # a second upload has nothing to do, and still not all is sent
        code, _, error = cli("upload", spool, "--to", tmp_path / "far", "--once", "--vehicle", "car-1")
        assert code == 30
        assert "1 released units are set aside" in " ".join(error.split())
        assert "nothing that is released waits" not in error


def test_a_dry_run_says_that_a_selection_of_recordings_would_be_released_and_sent(tmp_path, cli):
    fill_spool(tmp_path / "s", 6, size=50)
    code, out, error = cli("upload", tmp_path / "s", "--to", "far", "--dry-run")
    assert (code, out) == (0, "")
    assert "would release what is selected" in " ".join(error.split())
    with open_view(tmp_path / "s") as view:
        assert list(view.outgoing()) == []


def test_an_answer_of_megabytes_is_looked_at_and_told_in_part():
    page = "<html>" + "A" * 3_000_000
    assert without_secrets(page) == page  # in time that is proportional: it took hours
    error = classified(OSError(f"status code: 503 Service Unavailable: {page}"), "a.jpg")
    assert (error.outcome, error.reason) == ("retry", "busy")
    assert len(str(error)) < 2_000


def test_credentials_that_a_server_says_back_are_taken_out():
    text = "status code: 400 Bad Request: you sent authorization: Bearer hunter2-hunter2, region eu-north-1"
    found = {"GEAL_EDGE_UPLOAD_AUTHORIZATION": "Bearer hunter2-hunter2", "AWS_REGION": "eu-north-1"}
    assert "hunter2" in str(classified(OSError(text), "a.jpg"))
    told = str(classified(OSError(text.replace("Bearer ", "")), "a.jpg", found))
    assert "hunter2" not in told
    assert "eu-north-1" in told
    assert "hunter2" not in str(classified(OSError(text), "a.jpg", found))


def test_a_vehicle_on_a_metered_link_is_heard_though_all_that_waits_is_too_large(tmp_path, sender):
    fill_spool(tmp_path / "s", 2, size=400_000)
    with pytest.raises(UploadUnfinished, match="metered"):
        service.upload(
            tmp_path / "s", UploadConfig(to="x", metered="yes"), once=True, watch=Silent(), store=sender.store
        )
    [beat] = sender.store.objects
    assert "/status/" in beat


def test_a_recorded_source_named_as_the_folder_of_heartbeats_is_not_taken_for_it(tmp_path):
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        spool.begin_source(MemorySource(name="status"))
        assert trip_of(spool._db, 1, "status").startswith("status_-")


@pytest.mark.parametrize("name", ["disk_full", "commits_lost", "retention_expired", "repaired"])
def test_a_heartbeat_tells_of_what_a_fleet_must_know(name):
    beat = json.loads(heartbeat({}, [{"name": name}], vehicle="car-1", now=NOW))
    assert [json.loads(error)["name"] for error in beat["errors"]] == [name]


def test_a_heartbeat_is_at_most_4_kib_with_as_many_errors_as_fit():
    state = {"frames": {"seen": 1}, "lost": {f"reason {n}": n for n in range(50)}}
    events = [{"name": "link_lost", "detail": "x" * 1000, "n": n} for n in range(40)]
    data = heartbeat(state, events, vehicle="car-1", now=NOW)
    beat = json.loads(data)
    assert len(data) <= MAX_BYTES
    assert 3 <= len(beat["errors"]) < 10
    assert beat["frames"] == {"seen": 1}


@pytest.mark.parametrize(
    "wrong",
    [{"vehicle": "a/b"}, {"prefix": "/x"}, {"windows": ("25:00-01:00",)}, {"metered": "maybe"}, {"max_bytes_per_s": 1}],
)
def test_what_cannot_be_meant_is_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        UploadConfig(to="x", **wrong)


def test_no_store_is_told_a_secret_of_the_environment_in_its_words(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-ours")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    store = open_store("s3://bucket/fleet")
    assert "hunter2" not in repr(vars(store))
    assert "hunter2" in os.environ["AWS_SECRET_ACCESS_KEY"]


def test_what_a_store_takes_no_key_for_is_passed_over_or_said_in_a_sentence():
    from geal_edge.runtime.upload.objects import ObjectStore

    account = {"AZURE_STORAGE_ACCOUNT_NAME": "cars", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}
    ObjectStore("az://container/eu", {**account, "AZURE_ALLOW_HTTP": "true"})  # allowed in any case
    with pytest.raises(UsageError, match="cannot be a far side"):
        ObjectStore("az://container/eu", {**account, "AZURE_NO_SUCH_KEY": "x"})
