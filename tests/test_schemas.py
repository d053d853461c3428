"""Spools of other versions: an older one is gone on with, one from the future is refused by name and not touched."""

import shutil

import pytest

from geal_edge.runtime import pipeline
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from tests.old_spool import make_old
from tests.streams import random_stream
from tests.test_spool import changed, fill, summary

FUTURE = "geal-edge/spool/99"


@pytest.fixture(scope="module")
def filled(tiny_bundle, tmp_path_factory):
    """Six frames selected of twelve."""
    path = tmp_path_factory.mktemp("schemas") / "spool"
    with Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as encoder:
        pipeline.run([open_source("drawn:1:12")], encoder=encoder, spool_path=path, budget=6, watch=Silent())
    return path


@pytest.fixture
def spool(filled, tmp_path):
    return shutil.copytree(filled, tmp_path / "spool")


def contents(folder):
    """file -> its bytes, where it has any; without the memory that SQLite's readers share."""
    return {path: data for path in folder.rglob("*") if path.suffix != ".db-shm" and (data := content(path))}


def content(path):
    return path.read_bytes() if path.is_file() else b""


COMMANDS = {
    "status": ["status", "SPOOL"],
    "list": ["list", "SPOOL"],
    "check": ["check", "SPOOL"],
    "why": ["why", "SPOOL", "drawn-1#0"],
    "report": ["report", "SPOOL", "-o", "OUT"],
    "extract": ["extract", "SPOOL", "--to", "OUT"],
    "run": ["run", "drawn:1:12", "-b", "BUNDLE", "-s", "SPOOL", "--budget", "6", "-q"],
    "memory add": ["memory", "add", "OUT", "SPOOL"],
    "select": ["select", "drawn:1:12", "-b", "BUNDLE", "-n", "3", "--known", "SPOOL", "-o", "OUT"],
    "inspect": ["inspect", "SPOOL"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_spool_from_the_future_is_refused_by_name_and_nothing_is_changed(name, spool, tiny_bundle, tmp_path, cli):
    with changed(spool) as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (FUTURE,))
        database.execute("ALTER TABLE units ADD COLUMN from_the_future")
    before = contents(spool)
    places = {"SPOOL": spool, "OUT": tmp_path / "out", "BUNDLE": tiny_bundle.path}
    code, _, said = cli(*(places.get(word, word) for word in COMMANDS[name]))
    assert code == 13
    assert f"its schema is '{FUTURE}'" in said
    assert "Traceback" not in said
    assert contents(spool) == before


def test_a_spool_of_the_first_version_is_read_and_gone_on_with(tmp_path):
    old, new, stream = tmp_path / "old", tmp_path / "new", random_stream(5, 60)
    fill(new, stream[:30])
    shutil.copytree(new, old)
    make_old(old)
    assert summary(old) == summary(new)
    fill(new, stream, first=30)
    fill(old, stream, first=30)
    assert summary(old) == summary(new)
    with open_view(old) as view:
        assert view.check() == []


def test_a_memory_from_the_future_is_refused_by_name(spool, tmp_path, cli):
    assert cli("memory", "add", tmp_path / "a.memory", spool)[0] == 0
    data = (tmp_path / "a.memory").read_bytes()
    (tmp_path / "a.memory").write_bytes(data.replace(b"geal-edge/memory/1", b"geal-edge/memory/9", 1))
    before = (tmp_path / "a.memory").read_bytes()
    code, _, said = cli("memory", "add", tmp_path / "a.memory", spool)
    assert (code, "its schema is 'geal-edge/memory/9'" in said) == (13, True)
    assert (tmp_path / "a.memory").read_bytes() == before
