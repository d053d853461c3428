"""`run` and the uploader at one spool: evictions, releases, a round's end, acknowledgements and kills in any order."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geal_edge.runtime.outbox import Outbox, Receipt
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from tests.fakes import Clock, MemorySource, frame, judged
from tests.interleaving import Party, scheduled
from tests.killing import broken, promised, remembered_wrongly, twice
from tests.streams import random_stream
from tests.test_powerloss import memory_disk  # noqa: F401
from tests.test_rounds import live
from tests.test_spool import settings

ROUND: dict[str, Any] = {"length_s": 4.0, "budget": 2}
STREAM = random_stream(8, 9)
BEGUN = 6


def begin(folder: Path) -> Path:
    """A round has ended and the next is open: two units are released, one of them more by the frame that comes."""
    live(folder / "begun", STREAM[:BEGUN], **ROUND)
    return folder / "begun"


def writer(path: Path) -> Party:
    """Frames up to the end of the stream, from where the spool stands: what is due is released, the rest of a round evicted."""

    def work(party: Party) -> None:
        clock = Clock()
        with Spool(path, settings(release="paced", **ROUND), monotonic=clock) as spool:
            cursor = spool.begin_source(MemorySource()).cursor
            clock.now = (spool.round.number - 1) * ROUND["length_s"] + spool.round.elapsed_s
            rounds = Rounds(spool, clock)
            party.ready()
            for i, clusters in enumerate(STREAM):
                if i > cursor:
                    clock.now = i + 1.0
                    rounds.tick()
                    decision = rounds.score(clusters)
                    spool.append(judged(frame(i), clusters), decision)
                    rounds.learn(decision)

    return Party(work)


def uploader(path: Path, sent: list[str]) -> Party:
    """All that is released, one unit after another, to a far side that takes everything."""

    def work(party: Party) -> None:
        with Outbox(path) as outbox:
            party.ready()
            while (outgoing := outbox.next()) is not None:
                for each in outgoing.frames:
                    assert each.file.read_bytes() == b"bytes of frame %d" % int(each.id.rpartition("#")[2])
                outbox.acknowledge(outgoing, [Receipt(key=f.sha256, verified="size") for f in outgoing.frames])
                sent.append(outgoing.frames[0].id)

    return Party(work)


def outcome(path: Path) -> Any:
    """What must come out, whoever came first: what is final in its order, what is retained, what is remembered."""
    with open_view(path) as view:
        assert [problem for problem in view.check() if not problem.harmless] == []
        assert list(remembered_wrongly(view)) == []
        counts = view.counts()[0]
        lines = [(line["id"], line["round"], line["order"]) for line in view.list_lines(retained=True)]
    return lines, counts["evicted"], counts["seen"], counts["not_new"]


def finish(path: Path) -> Any:
    """Both go on to their ends, one after the other."""
    writer(path).end()
    uploader(path, []).end()
    return outcome(path)


def sizes(begun: Path, folder: Path) -> tuple[int, int, Any]:
    """Steps of the writer, steps of the uploader, and the outcome."""
    path = Path(shutil.copytree(begun, folder / "alone"))
    sending = uploader(path, [])
    by_uploader = sending.steps(1_000_000)
    sending.end()
    writing = writer(path)
    by_writer = writing.steps(1_000_000)
    writing.end()
    expected = finish(path)
    shutil.rmtree(path)
    return by_writer, by_uploader, expected


def schedules(by_writer: int, by_uploader: int, every: int) -> Iterator[tuple[bool, int, int]]:
    """(the writer begins, its steps, the uploader's steps) before the other two parts, in which both go on to their ends."""
    pairs = [(w, u) for w in range(by_writer + 1) for u in range(1, by_uploader + 1)]
    for number, (w, u) in enumerate(pairs):
        if number % every == 0:
            yield True, w, u
        if number % every == every // 2:
            yield False, w, u


def interleave(folder: Path, *, every: int) -> Counter[str]:
    """Run every schedule twice: to its end, and with both killed after their first parts and started again."""
    counts: Counter[str] = Counter()
    begun = begin(folder)
    with scheduled():
        by_writer, by_uploader, expected = sizes(begun, folder)
        for writer_begins, w, u in schedules(by_writer, by_uploader, every):
            for killed in (False, True):
                path = Path(shutil.copytree(begun, folder / "spool"))
                sent: list[str] = []
                writing, sending = writer(path), uploader(path, sent)
                first, second = ((writing, w), (sending, u)) if writer_begins else ((sending, u), (writing, w))
                first[0].steps(first[1])
                second[0].steps(second[1])
                before = promised(path)
                where = f"{w} steps of run, {u} of the uploader, killed: {killed}"
                if killed:
                    writing.kill()
                    sending.kill()
                    with open_view(path) as view:
                        assert [p.detail for p in view.check() if not p.harmless] == [], where
                else:
                    first[0].end()
                    second[0].end()
                assert len(set(sent)) == len(sent), where
                assert finish(path) == expected, where
                after = promised(path)
                assert [*broken(before, after), *twice(after)] == [], where
                counts["killed" if killed else "interleaved"] += 1
                shutil.rmtree(path)
    counts["steps of run"], counts["steps of the uploader"] = by_writer, by_uploader
    return counts


def test_evict_release_acknowledge_and_kill_in_any_order_come_to_one_end(memory_disk):  # noqa: F811
    counts = interleave(memory_disk, every=199)
    assert min(counts.values()) > 5
