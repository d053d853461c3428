"""A thousand selections over a link that fails in every way, to three real servers, with the uploader killed a hundred times.

`make test-upload`; `UPLOADS=200 make test-upload` for a shorter one. Wants nginx (Debian: nginx-light), moto for S3 in the Python
that GEAL_EDGE_TEST_MOTO names (`make` sees to it), and Azurite for Azure (npm install --global azurite). A server that is not
here is named, and its part skipped.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from geal_edge.errors import UploadError
from geal_edge.runtime.farside.cache import open_cache
from geal_edge.runtime.farside.frames import FarFrame
from geal_edge.runtime.farside.reading import Choice, read_fleet
from geal_edge.runtime.farside.standing import list_lines
from geal_edge.runtime.outbox import release_recorded
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.state import State
from geal_edge.runtime.upload.folder import FolderStore
from geal_edge.runtime.upload.objects import ObjectStore
from geal_edge.runtime.upload.store import Contents
from tests.farside import AZURITE, AZURITE_ACCOUNT, FAULTS, BadLink, azurite, fill_spool, moto, nginx, serving

SELECTIONS = int(os.environ.get("UPLOADS", "1000"))
KILLS = SELECTIONS // 10
MOTO = os.environ.get("GEAL_EDGE_TEST_MOTO", sys.executable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Far:
    """A server on a port of loopback.

    reach    port of the server, or of a link to it -> the uploader's --to and environment
    objects  what is there: key -> bytes
    """

    port: int
    reach: Callable[[int], tuple[str, dict[str, str]]]
    objects: Callable[[], dict[str, bytes]]


@contextmanager
def nginx_side(folder: Path) -> Iterator[Far]:
    if shutil.which("nginx") is None:
        pytest.skip("no nginx here: apt install nginx-light")
    with nginx(folder) as (port, root):

        def objects() -> dict[str, bytes]:
            return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

        yield Far(port=port, reach=lambda link: (f"http://127.0.0.1:{link}/", {}), objects=objects)


@contextmanager
def s3_side(folder: Path) -> Iterator[Far]:
    if subprocess.run([MOTO, "-c", "import moto.server"], capture_output=True, check=False).returncode:
        pytest.skip("no S3 server here: pip install 'moto[server]', and name that Python in GEAL_EDGE_TEST_MOTO")
    with moto(MOTO) as port:
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")).close()
        signed = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}

        def reach(link: int) -> tuple[str, dict[str, str]]:
            return "s3://bucket", {**signed, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{link}"}

        # SigV4 signs the host that is asked; the server behind the link does not look at it.
        yield Far(port=port, reach=reach, objects=partial(everything, *reach(port)))


@contextmanager
def azure_side(folder: Path) -> Iterator[Far]:
    if shutil.which("azurite-blob") is None:
        pytest.skip("no Azure server here: npm install --global azurite")
    with azurite() as port:

        def reach(link: int) -> tuple[str, dict[str, str]]:
            return "az://cars/eu", {**AZURITE, "AZURE_ENDPOINT": f"http://127.0.0.1:{link}/{AZURITE_ACCOUNT}"}

        yield Far(port=port, reach=reach, objects=partial(everything, *reach(port)))


def everything(url: str, environ: dict[str, str]) -> dict[str, bytes]:
    far = ObjectStore(url, environ)
    return {item.key: far.get(item.key) for item in far.list("")}


def looked_at(far: Far, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """(lines of `list`, seconds and requests of the first and the second look). An nginx without a module for it does not list,
    so that its folder is read."""
    told: list[str] = []
    frames: list[FarFrame] = []
    with BadLink(far.port, rate=0.0, seed=0) as link, serving(link) as port:
        url, environ = far.reach(port)
        store: Contents
        if url.startswith("http:"):
            with pytest.raises(UploadError, match="PROPFIND"):
                list(ObjectStore(url, environ).list(""))
            store = FolderStore(folder / "far" / "root")
        else:
            store = ObjectStore(url, environ)
        for _ in range(2):
            before, began = link.requests, time.perf_counter()
            with open_cache(State(folder=folder / "state"), url) as cache:
                frames = read_fleet(store, url=url, prefix="fleet", cache=cache).frames(Choice())
            told.append(f"{time.perf_counter() - began:.2f} s, {link.requests - before} requests")
    return list(list_lines(frames)), "; ".join(told)


def arrived(objects: dict[str, bytes]) -> list[str]:
    """Ids of the frames that are complete, by their place; each is what its sidecar says."""
    found = [json.loads(data) for key, data in objects.items() if key.endswith(".json")]
    for sidecar in found:
        assert sha256(objects[sidecar["key"]]).hexdigest() == sidecar["sha256"]
    return [sidecar["id"] for sidecar in sorted(found, key=lambda s: s["order"])]


@pytest.mark.parametrize("side", [nginx_side, s3_side, azure_side])
def test_a_thousand_selections_arrive_once_over_a_bad_link_by_an_uploader_that_is_killed(tmp_path, side):
    fill_spool(tmp_path / "spool", SELECTIONS, size=8000)
    release_recorded(tmp_path / "spool")
    with open_view(tmp_path / "spool") as view:
        expected = [line["id"] for line in view.list_lines()]
    assert len(expected) == SELECTIONS
    with side(tmp_path / "far") as far, BadLink(far.port, rate=0.2, seed=7) as link:
        with serving(link) as bad:
            url, reached = far.reach(bad)
            environ = {**os.environ, **reached}
            kills, prefixes = 0, 0
            pause = Event()
            while True:
                words = [sys.executable, "-m", "tests.sending", str(tmp_path / "spool"), url, str(kills)]
                process = subprocess.Popen(words, env=environ)
                if kills < KILLS:
                    dies_at, late_s = (
                        link.requests + link.rng.randrange(1, 2 * SELECTIONS // KILLS),
                        link.rng.random() * 0.02,
                    )

                    def on_request(count, process=process, dies_at=dies_at, late_s=late_s):
                        if (
                            count == dies_at
                        ):  # in the middle of a request, or a little later, when it writes to its disk
                            Thread(target=lambda: (pause.wait(late_s), process.kill())).start()

                    link.on_request = on_request
                process.wait()
                if process.returncode == 0:
                    break
                assert process.returncode == -signal.SIGKILL
                kills += 1
                if kills % 10 == 0:
                    there = arrived(far.objects())
                    assert there == expected[: len(there)]
                    prefixes += 1
        found = far.objects()
        lines, looks = looked_at(far, tmp_path)
    assert kills == KILLS
    assert set(link.faults) == set(FAULTS)
    assert arrived(found) == expected
    assert len(found) == 2 * SELECTIONS
    with open_view(tmp_path / "spool") as view:
        assert view.counts()[0]["sent"] == SELECTIONS
        assert view.check() == []
        checked = view.status()["upload"]["verified"]
        in_spool = list(view.list_lines())
    assert [line["id"] for line in lines] == expected
    for mine, theirs in zip(lines, in_spool, strict=True):
        assert {**mine, "cover_radius": None} == {**theirs, **{name: mine[name] for name in ("vehicle", "trip", "key")}}
        assert len(found[mine["key"]]) == mine["bytes"]
    assert list((tmp_path / "spool" / "frames").iterdir()) == []
    print(f"\n{SELECTIONS} sidecars read from {url}: {looks}")
    print(
        f"\n{url}: {link.requests} requests, faults {link.faults}, {kills} kills, {prefixes} prefixes, checked by {checked}"
    )
