"""Others at a spool while its writer works: a second writer is refused, and a reader never sees half of anything."""

import os
from contextlib import contextmanager

import pytest

import geal_edge.runtime.durable as durable
import geal_edge.runtime.erasure as erasure_module
import geal_edge.runtime.outbox as outbox_module
import geal_edge.runtime.spool as spool_module
from geal_edge.runtime.report import write_report
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import connection
from geal_edge.runtime.spoolview import open_view
from tests.fakes import Clock, DyingDisk
from tests.full_disk import begin
from tests.powerloss.cuts import stored
from tests.powerloss.drives import DRIVES, Watched
from tests.test_spool import settings


@contextmanager
def looked_at(look, promise):
    """Within: `look` is called before every operation on a file and every statement, `promise` with what each commit held."""

    class Os:
        def __getattr__(self, name):
            call = getattr(os, name)
            if name not in DyingDisk.FILE_CALLS:
                return call

            def looking(*args, **kwargs):
                look()
                return call(*args, **kwargs)

            return looking

    class Looking(Watched):
        def execute(self, statement, *args):
            look()
            return super().execute(statement, *args)

    @contextmanager
    def looking_connection(path):
        with connection(path) as database:
            yield Looking(database, promise)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "os", Os())
        for module in (spool_module, outbox_module, erasure_module):
            patch.setattr(module, "connection", looking_connection)
        yield


@pytest.mark.parametrize("name", DRIVES)
def test_a_reader_at_any_operation_of_a_writer_sees_the_newest_commit_whole(name, tmp_path):
    spool = tmp_path / "spool"
    begin(name, spool)
    newest, operations, looks = stored(spool), 0, 0

    def promise(held):
        nonlocal newest
        newest = held

    def look():
        nonlocal operations, looks
        operations += 1
        if operations % EVERY or not newest:
            return
        looks += 1
        assert stored(spool) == newest
        with open_view(spool) as view:
            assert [problem for problem in view.check() if not problem.harmless] == []
            frames = view.status()["frames"]
            lines = list(view.list_lines(retained=True))
        assert [line["order"] for line in lines if line["order"]] == list(
            range(1, 1 + sum(bool(x["order"]) for x in lines))
        )
        assert len(lines) == frames["retained"] + frames["released"] + frames["sent"]

    with looked_at(look, promise):
        DRIVES[name](spool)
    assert looks > 8
    print(f"{name}: a reader at {looks} of {operations} operations of the writer")


EVERY = 4


def test_a_report_is_written_beside_a_writer(tmp_path):
    spool = tmp_path / "spool"
    DRIVES["paced"](spool)
    with Spool(spool, settings(release="paced", length_s=2.0, budget=2), monotonic=Clock()):
        write_report(spool, tmp_path / "page.html")
    assert "</html>" in (tmp_path / "page.html").read_text()


def test_a_second_run_on_a_spool_ends_with_the_sentence_and_changes_nothing(tiny_bundle, tmp_path, cli):
    spool = tmp_path / "spool"
    with Spool(spool, settings(), monotonic=Clock()):
        before = {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()}
        code, _, said = cli("run", "drawn:1:3", "-b", tiny_bundle.path, "-s", spool, "--budget", "3", "-q")
        assert {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()} == before
    assert code == 14
    assert "is being written by another process" in said
