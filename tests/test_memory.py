from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from geal_edge.errors import FeatureSpaceMismatch, SpoolDamaged, SpoolError, StorageError, UsageError
from geal_edge.runtime.clusters import unit_rows
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.memory import Entry, Mark, Memory, merge, remember
from geal_edge.runtime.memoryfile import is_memory, memory_bytes, memory_json, read_memory, write_memory
from tests.streams import STREAMS, drive_stream

EMPTY = Memory(feature_space="fs-1")


def frames(seed, count, *, first=0, **more):
    """`count` frames of a drawn drive, called f0, f1, ..."""
    return [
        Entry(id=f"f{first + i}", kind="known", rows=clusters.rows, origin=f"drive {seed}", **more)
        for i, clusters in enumerate(drive_stream(seed, count))
    ]


def ignored(entry, patches=(1, 2)):
    return replace(entry, kind="ignore", rows=entry.rows[:1], mark=Mark(patches=patches, grid=(2, 2)))


def ids(memory):
    return [entry.id for entry in memory.entries]


def novelties(entries):
    """Reference: exact squared novelty of each against all others."""
    return [
        squared_distances(e.rows, np.concatenate([o.rows for o in entries if o is not e])).min(axis=1).max()
        for e in entries
    ]


def same(a, b):
    return memory_bytes(a) == memory_bytes(b)


# -- what is remembered, and what is forgotten -------------------------------------------------------------------------


def test_what_is_remembered_counts_as_covered_oldest_first():
    entries = frames(1, 5)
    memory = remember(EMPTY, entries)
    assert ids(memory) == [e.id for e in entries]
    assert np.array_equal(memory.rows(), np.concatenate([e.rows for e in entries]))
    assert len(EMPTY.rows()) == 0


def test_a_frame_that_is_remembered_already_by_id_or_by_content_changes_nothing():
    memory = remember(EMPTY, frames(1, 4, sha256="00"))
    assert ids(memory) == ["f0"]  # one content
    assert same(remember(memory, frames(2, 1)), memory)  # the id f0
    other = replace(frames(2, 1)[0], id="g", sha256="00")
    assert same(remember(memory, [other]), memory)


@pytest.mark.parametrize("stream", STREAMS)
def test_the_most_redundant_frame_is_forgotten_and_of_several_the_oldest(stream):
    clusters = STREAMS[stream](3, 60)
    entries = [Entry(id=str(i), kind="known", rows=c.rows, origin="x") for i, c in enumerate(clusters)]
    memory = replace(EMPTY, max_frames=20)
    expected = []
    for entry in entries:
        memory = remember(memory, [entry])
        expected.append(entry)
        if len(expected) > 20:
            lost = novelties(expected)
            gone = next(e for e in expected if e not in memory.entries)
            assert lost[expected.index(gone)] <= min(lost) + 1e-5  # float32 decides
            expected.remove(gone)
        assert list(memory.entries) == expected
    assert memory.forgotten == 40


def test_of_exact_copies_the_older_one_is_forgotten():
    first, *others = frames(4, 12)
    memory = replace(EMPTY, max_frames=12)
    memory = remember(memory, [first, *others, replace(first, id="copy")])
    assert ids(memory) == [*(e.id for e in others), "copy"]


def test_what_is_carried_along_is_what_would_be_found_anew():
    memory = replace(EMPTY, max_frames=15)
    for entry in frames(5, 40):
        memory = remember(memory, [entry])
    anew = remember(replace(EMPTY, max_frames=15), memory.entries)
    assert np.allclose(memory.nearest.squared, anew.nearest.squared, atol=1e-6)
    rows = memory.rows()
    owner = np.repeat(np.arange(15), [len(e.rows) for e in memory.entries])
    exact = squared_distances(rows, rows)
    exact[owner[:, None] == owner] = np.inf
    assert np.allclose(memory.nearest.squared, exact.min(axis=1), atol=1e-5)
    told = np.array([exact[i, owner == o].min() for i, o in enumerate(memory.nearest.entry)])
    assert np.allclose(told, exact.min(axis=1), atol=1e-5)


def test_whether_frames_come_at_once_or_one_by_one_the_bound_holds_and_two_runs_agree():
    memory = replace(EMPTY, max_frames=10)
    one_by_one = [memory, memory]
    for run in (0, 1):
        for entry in frames(6, 30):
            one_by_one[run] = remember(one_by_one[run], [entry])
    assert same(*one_by_one)
    at_once = remember(memory, frames(6, 30))
    assert len(at_once.frames) == len(one_by_one[0].frames) == 10
    assert at_once.forgotten == one_by_one[0].forgotten == 20


def test_what_is_to_be_ignored_does_not_count_and_is_never_forgotten():
    entries = frames(7, 20)
    marks = [ignored(e) for e in entries[:5]]
    memory = remember(replace(EMPTY, max_frames=3), [*marks, *entries])
    assert [e.id for e in memory.entries if e.kind == "ignore"] == [e.id for e in marks]
    assert len(memory.frames) == 3
    again = remember(memory, [*marks, ignored(entries[0], patches=(0,))])
    assert sum(e.kind == "ignore" for e in again.entries) == 6  # another part of the same frame is another entry


def test_a_memory_of_one_frame_holds_the_last_of_two_that_cover_each_other_alike():
    memory = remember(replace(EMPTY, max_frames=1), [frames(8, 1)[0]])
    memory = remember(memory, [replace(frames(8, 1)[0], id="again")])
    assert ids(memory) == ["again"]
    with pytest.raises(UsageError, match="max_frames"):
        remember(replace(EMPTY, max_frames=0), [])


# -- merging -----------------------------------------------------------------------------------------------------------


def test_merging_a_memory_with_itself_changes_nothing():
    memory = remember(replace(EMPTY, max_frames=10), [*frames(1, 15), ignored(frames(2, 1)[0])])
    assert same(merge([memory]), memory)
    assert same(merge([memory, memory]), memory)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_memories_does_not_decide_what_a_merge_remembers(seed):
    rng = np.random.default_rng(seed)
    parts = []
    for part in range(3):
        entries = [
            replace(e, id=f"f{rng.integers(12)}", sha256=f"{rng.integers(12)}", kind=rng.choice(["known", "released"]))
            for e in frames(part, 8)
        ]
        parts.append(remember(EMPTY, [*entries, ignored(entries[0])]))
    results = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        merged = merge([parts[i] for i in order])
        results.append(sorted((e.id, e.kind) for e in merged.entries))
        assert len(set(results[-1])) == len(merged.entries)
        digests = [e.sha256 for e in merged.frames]
        assert len(set(digests)) == len(digests)
    assert results[0] == results[1] == results[2]


def test_a_merge_is_bounded_by_the_largest_bound():
    small = remember(replace(EMPTY, max_frames=3), frames(1, 3))
    large = remember(replace(EMPTY, max_frames=8), frames(2, 8, first=100))
    merged = merge([small, large])
    assert (len(merged.frames), merged.max_frames, merged.forgotten) == (8, 8, 3)


def test_memories_of_two_feature_spaces_are_not_merged_and_both_are_named():
    with pytest.raises(FeatureSpaceMismatch) as refused:
        merge([EMPTY, Memory(feature_space="fs-2")])
    assert "fs-1" in str(refused.value)
    assert "fs-2" in str(refused.value)


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory():
    entries = frames(9, 9)
    marked = replace(ignored(entries[0]), mark=Mark(patches=(0,), grid=(2, 2), region=(0.0, 0.7, 1.0, 0.3)))
    named = replace(entries[8], id="drive ü\n/1.png", sha256=sha256(b"1").hexdigest(), kind="released")
    return remember(replace(EMPTY, max_frames=6), [*entries[:8], marked, ignored(entries[1]), named])


def test_a_memory_is_restored_bit_for_bit_and_goes_on_as_if_nothing_had_happened(memory, tmp_path):
    path = tmp_path / "m"
    for stored in (memory, EMPTY, remember(EMPTY, frames(1, 1))):
        write_memory(path, stored)
        back = read_memory(path)
        assert memory_bytes(back) == memory_bytes(stored) == path.read_bytes()
        assert (back.feature_space, back.max_frames, back.forgotten) == (
            stored.feature_space,
            stored.max_frames,
            stored.forgotten,
        )
        assert [(e.id, e.kind, e.mark, e.sha256, e.origin) for e in back.entries] == [
            (e.id, e.kind, e.mark, e.sha256, e.origin) for e in stored.entries
        ]
        assert all(np.array_equal(a.rows, b.rows) for a, b in zip(back.entries, stored.entries, strict=True))
        new = frames(10, 12, first=50)
        assert same(remember(back, new), remember(stored, new))
    assert is_memory(path)
    assert not is_memory(tmp_path)


def test_a_memory_that_breaks_off_anywhere_is_refused(memory, tmp_path):
    path, data = tmp_path / "m", memory_bytes(memory)
    for length in [*range(0, len(data), 5), *range(80), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(SpoolDamaged, match="damaged"):
            read_memory(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(SpoolDamaged, match="damaged"):
        read_memory(path)


def test_a_flipped_bit_anywhere_is_refused(memory, tmp_path):
    path, data = tmp_path / "m", memory_bytes(memory)
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises((SpoolError, UsageError)) as refused:
            read_memory(path)
        assert isinstance(refused.value, SpoolDamaged) or at < len("geal-edge/memory/1\n")


def test_a_version_that_is_not_known_is_refused_by_name(memory, tmp_path):
    path, body = tmp_path / "m", memory_bytes(memory)[:-32].replace(b"memory/1", b"memory/7", 1)
    path.write_bytes(body + sha256(body).digest())
    with pytest.raises(SpoolError, match="geal-edge/memory/7") as refused:
        read_memory(path)
    assert not isinstance(refused.value, SpoolDamaged)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"clusters": 1', b'"clusters": 2'),
        (b'"kind": "ignore"', b'"kind": "known"'),
        (b'"kind": "ignore"', b'"kind": "other"'),
        (b'"max_frames": 6', b'"max_frames": 0'),
        (b'"forgotten"', b'"forgot"'),
        (b'"entries": [', b'"entries": ['[:-1]),
    ],
)
def test_a_head_that_cannot_be_meant_is_refused_even_with_its_checksum(memory, tmp_path, before, after):
    path, data = tmp_path / "m", memory_bytes(memory)
    assert before in data
    body = data[:-32].replace(before, after, 1)
    path.write_bytes(body + sha256(body).digest())
    with pytest.raises(SpoolDamaged, match="cannot be meant"):
        read_memory(path)


def test_what_is_no_memory_is_a_sentence(tmp_path):
    (tmp_path / "picks.json").write_text("{}")
    for path in (tmp_path / "picks.json", tmp_path / "absent", tmp_path):
        with pytest.raises(UsageError, match="memory"):
            read_memory(path)


def test_a_memory_that_cannot_be_written_leaves_the_old_one(memory, tmp_path):
    write_memory(tmp_path / "m", memory)
    (tmp_path / "m.tmp").mkdir()
    with pytest.raises(StorageError):
        write_memory(tmp_path / "m", EMPTY)
    assert same(read_memory(tmp_path / "m"), memory)


def test_show_counts_by_kind_and_origin(memory, tmp_path):
    write_memory(tmp_path / "m", memory)
    told = memory_json(tmp_path / "m", memory)
    assert told["frames"]["ignore"] == 2
    assert sum(o["frames"] for o in told["origins"]) == 6
    assert told["forgotten"] == 3
    assert told["rows_bytes"] == memory.rows().nbytes
    assert told["ignore"][0]["region"] == [0.0, 0.7, 1.0, 0.3]


def test_rows_of_memory_are_canonical_rows():
    rows = unit_rows(np.eye(3))
    memory = remember(EMPTY, [Entry(id="a", kind="released", rows=rows, origin="x")])
    assert memory.rows().dtype == np.float16
