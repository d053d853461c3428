"""What every source and every backend keeps, as checks with a sentence each. A test hands in a function that opens one anew."""

import gc
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from geal_edge.errors import BackendError
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends import Backend
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.parity import compare
from geal_edge.runtime.sources import Source, open_source

OpenSource: TypeAlias = Callable[[], Source]
OpenBackend: TypeAlias = Callable[[Path], Backend]
"""From a graph's file to an engine that is to be entered."""


def same(one: list[Frame | LostFrame], other: list[Frame | LostFrame]) -> bool:
    """Equal in everything, pixels included."""
    return len(one) == len(other) and all(_same(left, right) for left, right in zip(one, other, strict=True))


def _same(one: Frame | LostFrame, other: Frame | LostFrame) -> bool:
    if isinstance(one, LostFrame) or isinstance(other, LostFrame):
        return one == other
    fields = ("id", "source", "frame_index", "capture_time_ns", "topic", "encoded", "encoding")
    return all(getattr(one, field) == getattr(other, field) for field in fields) and np.array_equal(
        one.image, other.image
    )


def its_images_are_rgb_bytes(open_it: OpenSource) -> None:
    frames = [item for item in open_it().frames() if isinstance(item, Frame)]
    assert frames
    for frame in frames:
        assert frame.image.dtype == np.uint8
        assert frame.image.ndim == 3
        assert frame.image.shape[2] == 3
        assert frame.image.flags.c_contiguous
        assert (frame.encoded is None) == (frame.encoding == "")


def its_ids_are_unique_and_carry_its_name(open_it: OpenSource) -> None:
    source = open_it()
    items = list(source.frames())
    assert len({item.id for item in items}) == len(items)
    assert all(item.source == source.name and item.id.startswith(source.name) for item in items)
    for item in items:
        item.id.encode("utf-8")


def its_indices_and_times_move_forward(open_it: OpenSource) -> None:
    items = list(open_it().frames())
    indices = [item.frame_index for item in items]
    assert indices == sorted(set(indices))
    assert min(indices) >= 0
    for topic in {item.topic for item in items}:  # two cameras may take a picture at the same time
        times = [item.capture_time_ns for item in items if item.topic == topic and item.capture_time_ns is not None]
        assert times == sorted(set(times))


def it_says_why_a_frame_is_lost(open_it: OpenSource) -> None:
    reasons = {"empty", "truncated", "not_an_image", "too_large", "unreadable", "undecodable"}
    for item in open_it().frames():
        if isinstance(item, LostFrame):
            assert item.reason in reasons
            assert item.detail.endswith(".")


def it_yields_the_same_each_time(open_it: OpenSource) -> None:
    source = open_it()
    assert same(list(source.frames()), list(source.frames()))
    assert same(list(source.frames()), list(open_it().frames()))


def resuming_gives_the_tail(open_it: OpenSource) -> None:
    source = open_it()
    everything = list(source.frames())
    cursors = sorted({-1, 0, everything[len(everything) // 2].frame_index, everything[-1].frame_index})
    for after in cursors:
        tail = [item for item in everything if item.frame_index > after]
        assert same(list(source.frames(after=after)), tail)


def its_frame_count_is_what_it_yields(open_it: OpenSource) -> None:
    source = open_it()
    assert source.frame_count in (None, len(list(source.frames())))


def its_size_is_that_of_its_first_usable_frame(open_it: OpenSource) -> None:
    source = open_it()
    first = next(item for item in source.frames() if isinstance(item, Frame))
    assert source.size in (None, (first.image.shape[1], first.image.shape[0]))


def its_fingerprint_is_stable(open_it: OpenSource) -> None:
    source = open_it()
    before = source.fingerprint()
    list(source.frames())
    assert source.fingerprint() == before == open_it().fingerprint()


SOURCE_CHECKS = (
    its_images_are_rgb_bytes,
    its_ids_are_unique_and_carry_its_name,
    its_indices_and_times_move_forward,
    it_says_why_a_frame_is_lost,
    it_yields_the_same_each_time,
    resuming_gives_the_tail,
    its_frame_count_is_what_it_yields,
    its_size_is_that_of_its_first_usable_frame,
    its_fingerprint_is_stable,
)
"""For every source, a fake one included."""


def its_spec_opens_it_again(open_it: OpenSource) -> None:
    source = open_it()
    again = open_source(source.spec, name=source.name, fps=source.fps)
    assert (again.kind, again.fingerprint()) == (source.kind, source.fingerprint())
    assert same(list(again.frames()), list(source.frames()))


def stopping_early_closes_its_files(open_it: OpenSource) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to count open files")
    source = open_it()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        frames = source.frames()
        next(frames)
        frames.close()  # type: ignore[attr-defined]  # every source is a generator; the Protocol only needs an iterator
    assert len(os.listdir("/proc/self/fd")) == before


def it_holds_no_frame(open_it: OpenSource) -> None:
    seen: list[weakref.ref[np.ndarray]] = []
    for item in open_it().frames():
        assert all(reference() is None for reference in seen)
        seen = [weakref.ref(item.image)] if isinstance(item, Frame) else []
        del item


RECORDED_SOURCE_CHECKS = (
    *SOURCE_CHECKS,
    its_spec_opens_it_again,
    stopping_early_closes_its_files,
    it_holds_no_frame,
)
"""For every source that reads from disk or draws."""


def it_answers_the_reference_frames(open_it: OpenBackend, bundle: Bundle) -> None:
    with np.load(bundle.reference) as stored, open_it(bundle.graph) as backend:
        reference = {name: stored[name] for name in stored.files if name != "image"}
        report = compare(reference, backend.run({"image": stored["image"]}))
    assert report.passed, f"\n{report}"


def it_promises_what_the_manifest_says(open_it: OpenBackend, bundle: Bundle) -> None:
    with Encoder(bundle, open_it(bundle.graph)) as encoder:
        assert encoder.backend.name


def it_takes_batches_of_any_size_in_any_order(open_it: OpenBackend, bundle: Bundle) -> None:
    frames = _frames(bundle, 5)
    with open_it(bundle.graph) as backend:
        alone = [backend.run({"image": frame[None]})["patch_features"][0].copy() for frame in frames]
        for group in ([0, 1, 2], [3], [4, 0]):
            together = backend.run({"image": frames[group]})["patch_features"]
            for i, values in zip(group, together, strict=True):
                np.testing.assert_allclose(values, alone[i], rtol=0, atol=1e-4)


def it_changes_neither_its_input_nor_its_answer(open_it: OpenBackend, bundle: Bundle) -> None:
    frames = _frames(bundle, 2)
    before = frames.copy()
    with open_it(bundle.graph) as backend:
        first = {name: values.tobytes() for name, values in backend.run({"image": frames}).items()}
        backend.run({"image": frames[::-1].copy()})
        again = {name: values.tobytes() for name, values in backend.run({"image": frames}).items()}
    assert np.array_equal(frames, before)
    assert first == again


def it_refuses_what_the_graph_does_not_take(open_it: OpenBackend, bundle: Bundle) -> None:
    frames = _frames(bundle, 1)
    with open_it(bundle.graph) as backend:
        for feeds in ({}, {"pixels": frames}, {"image": frames.astype(np.float32)}, {"image": frames[:, :-1]}):
            with pytest.raises(BackendError):
                backend.run(feeds)


def it_refuses_a_file_that_is_no_graph(open_it: OpenBackend, bundle: Bundle) -> None:
    for data in (b"not a graph", bundle.graph.read_bytes()[:2000]):
        bad = Path(tempfile.mkdtemp()) / "model.onnx"
        bad.write_bytes(data)
        with pytest.raises(BackendError, match="cannot load this graph"):
            open_it(bad).__enter__()


def _frames(bundle: Bundle, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    shape = (count, bundle.manifest.height, bundle.manifest.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


BACKEND_CHECKS = (
    it_answers_the_reference_frames,
    it_promises_what_the_manifest_says,
    it_takes_batches_of_any_size_in_any_order,
    it_changes_neither_its_input_nor_its_answer,
    it_refuses_what_the_graph_does_not_take,
    it_refuses_a_file_that_is_no_graph,
)
"""For every engine that computes in float32."""
