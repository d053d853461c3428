"""Who decided: what frames, events, sidecars and heartbeats tell of the vehicle behind them."""

import json
from dataclasses import replace
from pathlib import Path

from geal_edge.runtime.identity import Identity
from geal_edge.runtime.outbox import Outbox
from geal_edge.runtime.settings import read_configuration
from geal_edge.runtime.settings.reference import digest
from geal_edge.runtime.sidecar import keys_of
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import DATABASE, connection
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.vehicletime import boot_id
from tests.fakes import MemorySource, frame, judge
from tests.streams import random_stream
from tests.test_spool import settings

MONDAY = Identity(vehicle="car-17", boot_id="monday", config="sha256:aa")
FILE = """\
[source]
uris = ["gst:rtspsrc location=rtsp://10.0.0.7/1 user-pw={password} ! decodebin", "watch:/data/in"]
[bundle]
path = "/opt/bundle"
[budget]
frames_per_day = {frames}
[spool]
path = "/var/lib/geal-edge/spool"
"""


def filled(path: Path) -> None:
    """A frame on Monday's first trip, one on its second, one on Tuesday by another configuration; all released."""
    tuesday = replace(MONDAY, boot_id="tuesday", config="sha256:bb")
    clusters = random_stream(0, 3, dim=64, most=1)
    with Spool(path, settings()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource(kind="live"))
        spool.identify(MONDAY)
        spool.identify(MONDAY)  # started again without anything new
        for index, who in enumerate([MONDAY, MONDAY, tuesday]):
            spool.identify(who)
            judge(spool, ladder, frame(index), clusters[index])
            spool.event("camera_frozen", camera=str(index))
            spool.flush()
            if index == 0:
                spool.trip_ended("gap")
        spool.end_round(ladder.release(3), [])


def test_an_event_tells_who_it_was_when_it_happened(tmp_path):
    filled(tmp_path / "s")
    with Outbox(tmp_path / "s") as outbox:
        outbox.note_link({"state": "failing"}, event="link_lost")
    with open_view(tmp_path / "s") as view:
        events = [event for event in view.events() if event["name"] in ("camera_frozen", "trip_ended", "link_lost")]
        status = view.status()
    told = [(event["vehicle"], event["trip"], event["boot_id"], event["config"]) for event in events]
    assert told == [
        ("car-17", "memory-0001", "monday", "sha256:aa"),
        ("car-17", "memory-0001", "monday", "sha256:aa"),  # the end of that trip
        ("car-17", "memory-0002", "monday", "sha256:aa"),
        ("car-17", "memory-0002", "tuesday", "sha256:bb"),
        ("car-17", "memory-0002", boot_id(), "sha256:bb"),  # of the uploader, which may have begun before `run`
    ]
    assert [status[name] for name in ("vehicle", "trip", "boot_id", "config")] == list(told[3])
    with connection(tmp_path / "s" / DATABASE) as db:
        assert db.execute("SELECT count(*) FROM identities").fetchone() == (2,)


def test_a_sidecar_tells_who_chose_the_frame_whoever_sends_it(tmp_path):
    filled(tmp_path / "s")
    found = {}
    with Outbox(tmp_path / "s") as outbox:
        for _ in range(3):
            unit = outbox.next()
            assert unit is not None
            keys = keys_of(unit, prefix="", vehicle="car-17", same_before=outbox.same_before(unit))
            (sidecar,) = map(json.loads, outbox.sidecars(unit, vehicle="car-17", keys=keys))
            found[sidecar["id"]] = (sidecar["boot_id"], sidecar["config"])
            outbox.set_aside(unit, reason="refused", detail="so that the next one comes")
    assert found == {
        "memory#0": ("monday", "sha256:aa"),
        "memory#1": ("monday", "sha256:aa"),
        "memory#2": ("tuesday", "sha256:bb"),
    }


def test_a_spool_that_nobody_noted_anything_in_says_so(tmp_path):
    with Spool(tmp_path / "s", settings()) as spool:
        spool.event("camera_frozen", camera="0")
    with open_view(tmp_path / "s") as view:
        (event,) = view.events()
        status = view.status()
    for told in (event, status):
        assert [told[name] for name in ("vehicle", "trip", "boot_id", "config")] == [None] * 4
        assert told["bundle"] == settings().bundle


def test_vehicles_that_are_configured_alike_have_one_digest_without_their_names_and_secrets(tmp_path):
    found = []
    for name, password, frames in (("car-1", "a", 50), ("car-2", "b", 50), ("car-2", "b", 51)):
        path = tmp_path / f"{name}-{frames}.toml"
        path.write_text(FILE.format(password=password, frames=frames) + f'[vehicle]\nid = "{name}"\n')
        found.append(digest(read_configuration(path, {})))
    assert found[0] == found[1] != found[2]
