import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from geal_edge.config import PRESETS, SELECTIONS, ClusterConfig
from geal_edge.errors import (
    FeatureSpaceMismatch,
    Interrupted,
    SourceClash,
    SpoolDamaged,
    SpoolLocked,
    UsageError,
)
from geal_edge.models.bundle import token_space
from geal_edge.models.preprocess import resize
from geal_edge.runtime import features as features_module
from geal_edge.runtime import pool
from geal_edge.runtime.encoder import Encoded, Encoder
from geal_edge.runtime.features import Features, LateEncoder, record_of
from geal_edge.runtime.frame import LostFrame
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from tests.fakes import Died, MemorySource, StopAt, dying_disk, frame

BAD = LostFrame(
    id="memory#4", source="memory", frame_index=4, capture_time_ns=None, reason="truncated", detail="cut off"
)


class Scribe:
    """Encodes a frame into noise that its pixels decide; counts how often it was asked. No engine, so that it is fast."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.asked = 0

    def __call__(self, image):
        self.asked += 1
        rng = np.random.default_rng(image.reshape(-1)[:16].tolist())
        return Encoded(
            patch_features=rng.standard_normal((100, 64)).astype(np.float16),
            cls_attention=rng.dirichlet(np.full(100, 0.5)).astype(np.float32),
            cls_embedding=rng.standard_normal(64).astype(np.float32),
        )


@pytest.fixture
def scribe(tiny_bundle):
    return Scribe(tiny_bundle)


def seen_of(item, manifest):
    """The pixels of a frame as the encoder gets them."""
    return resize(item.image, manifest.width, manifest.height, manifest.resize)


@pytest.fixture
def small_blocks(monkeypatch):
    """A block every three frames."""
    monkeypatch.setattr(features_module, "BLOCK_BYTES", 3 * (100 * 64 * 2 + 100 * 4 + 64 * 4))


def memory(count=8, name="memory"):
    items = [frame(i, source=name) for i in range(count)]
    return MemorySource([BAD if (i, name) == (4, "memory") else item for i, item in enumerate(items)], name=name)


def select(sources, encoder, folder=None, budget=5, **more):
    if folder is None:
        return pool.select(sources, encoder=encoder, budget=budget, watch=Silent(), **more)
    with Features(folder, encoder.bundle.manifest, writable=True) as features:
        return pool.select(sources, encoder=encoder, budget=budget, features=features, watch=Silent(), **more)


def told(selection, bundle, sources=()):
    return pool.picks_json(selection, sources, bundle, budget=5, seed=0)


def test_picks_from_stored_features_equal_picks_from_frames_and_cost_no_inference(encoder, tiny_bundle, tmp_path):
    drive = [open_source("drawn:1:12")]
    expected = told(select(drive, encoder), tiny_bundle)
    assert told(select(drive, encoder, tmp_path / "f"), tiny_bundle) == expected
    refusing = Scribe(tiny_bundle)
    assert told(select(drive, refusing, tmp_path / "f"), tiny_bundle) == expected
    assert refusing.asked == 0


@pytest.mark.parametrize("strategy", ["geal", "coreset-cosine", "coreset-euclidean"])
@pytest.mark.parametrize(
    "recipe", [ClusterConfig(attention_ratio=0.3, clusters_per_frame=4), PRESETS["freesel"], PRESETS["pet"]]
)
def test_other_knobs_group_the_same_tokens_anew(scribe, tiny_bundle, tmp_path, recipe, strategy):
    select([memory()], scribe, tmp_path / "f")
    config = replace(SELECTIONS["geal"], strategy=strategy)
    expected = told(select([memory()], scribe, recipe=recipe, config=config), tiny_bundle)
    asked = scribe.asked
    assert told(select([memory()], scribe, tmp_path / "f", recipe=recipe, config=config), tiny_bundle) == expected
    assert scribe.asked == asked


def test_what_is_stored_is_what_the_encoder_said(scribe, tiny_bundle, tmp_path, small_blocks):
    select([memory()], scribe, tmp_path / "f")
    with Features(tmp_path / "f", tiny_bundle.manifest, writable=False) as features:
        found = list(features.frames("memory"))
        assert features.sources["memory"].lost == [(4, "memory#4", "truncated")]
    assert [record for record, _ in found] == [record_of(item) for item in memory().items if item is not BAD]
    for (_, stored), item in zip(found, [item for item in memory().items if item is not BAD], strict=True):
        said = scribe(seen_of(item, tiny_bundle.manifest))
        for name in ("patch_features", "cls_attention", "cls_embedding"):
            assert np.array_equal(getattr(stored, name), getattr(said, name))


def test_a_complete_source_is_not_decoded_and_a_further_one_goes_on(scribe, tiny_bundle, tmp_path):
    select([memory()], scribe, tmp_path / "f")

    class Undecodable(MemorySource):
        def frames(self, after=-1):
            raise AssertionError("decoded")

    complete = Undecodable(memory().items)
    both = select([complete, memory(5, "second")], scribe, tmp_path / "f")
    assert scribe.asked == 7 + 5
    assert told(both, tiny_bundle) == told(select([memory(), memory(5, "second")], scribe), tiny_bundle)
    assert both.lost == {"truncated": 1}


def test_with_no_source_named_all_stored_ones_are_the_pool(scribe, tiny_bundle, tmp_path):
    sources = [memory(), memory(5, "second")]
    expected = told(select(sources, scribe, tmp_path / "f"), tiny_bundle)
    assert told(select([], scribe, tmp_path / "f"), tiny_bundle) == expected


def test_stopped_in_the_middle_it_goes_on_behind_the_last_frame(scribe, tiny_bundle, tmp_path):
    with pytest.raises(Interrupted, match="goes on from there"):
        select([memory()], scribe, tmp_path / "f", stop=StopAt(4))
    with Features(tmp_path / "f", tiny_bundle.manifest, writable=False) as features:
        stored = len(features.records)
    assert 0 < stored < 7
    scribe.asked = 0  # it may have been asked for a frame ahead, which is asked for again
    resumed = told(select([memory()], scribe, tmp_path / "f"), tiny_bundle)
    assert scribe.asked == 7 - stored
    assert resumed == told(select([memory()], scribe), tiny_bundle)


def test_killed_at_any_operation_what_is_complete_is_used_and_the_rest_done(
    scribe, tiny_bundle, tmp_path, monkeypatch, small_blocks
):
    expected = told(select([memory()], scribe), tiny_bundle)
    with dying_disk(monkeypatch) as disk:
        select([memory()], scribe, tmp_path / "whole")
    assert disk.count > 30
    for n in range(disk.count):
        folder = tmp_path / str(n)
        with dying_disk(monkeypatch, at=n), pytest.raises(Died):
            select([memory()], scribe, folder)
        scribe.asked = 0
        assert told(select([memory()], scribe, folder), tiny_bundle) == expected, n
        assert scribe.asked in (7, 4, 1, 0)
        assert (folder / "tokens.f16").stat().st_size == 7 * 100 * 64 * 2
    assert scribe.asked == 0  # the last operation only makes names durable


def test_a_torn_tail_is_dropped(scribe, tiny_bundle, tmp_path, small_blocks):
    folder = tmp_path / "f"
    expected = told(select([memory()], scribe, folder), tiny_bundle)
    journal = (folder / "journal.jsonl").read_bytes()
    for torn in (b'{"frame": {"id": "mem', b'{"finished": "memory"}\n', b"\xff\n"):
        (folder / "journal.jsonl").write_bytes(journal + torn)
        with (folder / "tokens.f16").open("ab") as tail:
            tail.write(b"half a frame")
        scribe.asked = 0
        assert told(select([memory()], scribe, folder), tiny_bundle) == expected
        assert scribe.asked == 0
    assert told(select([memory(), memory(4, "more")], scribe, folder), tiny_bundle)["frames"]["seen"] == 12
    assert (folder / "tokens.f16").stat().st_size == 11 * 100 * 64 * 2


def test_a_copy_that_was_cut_off_is_used_as_far_as_its_blocks_are_whole(scribe, tiny_bundle, tmp_path, small_blocks):
    folder = tmp_path / "f"
    expected = told(select([memory()], scribe, folder), tiny_bundle)
    with (folder / "tokens.f16").open("r+b") as tokens:
        tokens.truncate(5 * 100 * 64 * 2)
    scribe.asked = 0
    assert told(select([memory()], scribe, folder), tiny_bundle) == expected
    assert scribe.asked == 4


def test_a_flipped_bit_is_found_before_anything_is_selected(scribe, tmp_path, small_blocks):
    folder = tmp_path / "f"
    select([memory()], scribe, folder)
    for name in ("tokens.f16", "attention.f32", "cls.f32"):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(SpoolDamaged, match=f"{name}.*Remove"):
            select([memory()], scribe, folder)
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
    select([memory()], scribe, folder)


def test_a_flipped_bit_in_the_journal_costs_the_blocks_behind_it(scribe, tiny_bundle, tmp_path, small_blocks):
    folder = tmp_path / "f"
    expected = told(select([memory()], scribe, folder), tiny_bundle)
    text = (folder / "journal.jsonl").read_text()
    (folder / "journal.jsonl").write_text(text.replace("memory#3", "memory#2"))
    scribe.asked = 0
    assert told(select([memory()], scribe, folder), tiny_bundle) == expected
    assert scribe.asked == 4


def test_another_bundles_features_are_refused_with_both_ids(scribe, tiny_bundle, tmp_path):
    select([memory()], scribe, tmp_path / "f")
    other = replace(tiny_bundle.manifest, resize="area")
    with pytest.raises(FeatureSpaceMismatch) as refused, Features(tmp_path / "f", other, writable=True):
        pass
    assert token_space(other) in str(refused.value)
    assert token_space(tiny_bundle.manifest) in str(refused.value)
    recipe = replace(tiny_bundle.manifest, clusters=PRESETS["pet"], preset="pet", precision="fp16")
    with Features(tmp_path / "f", recipe, writable=False) as features:
        assert len(features.records) == 7


def test_another_source_of_that_name_or_another_rate_is_refused(scribe, tmp_path):
    select([memory()], scribe, tmp_path / "f")
    with pytest.raises(SourceClash, match="--name"):
        select([memory(3)], scribe, tmp_path / "f")
    slower = memory()
    slower.fps = 2.0
    with pytest.raises(UsageError, match="no --fps, now it is --fps 2"):
        select([slower], scribe, tmp_path / "f")


def test_a_folder_of_something_else_is_left_alone(scribe, tiny_bundle, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="holiday"):
        select([memory()], scribe, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        select([memory()], scribe, tmp_path / "holiday.jpg")
    with (
        pytest.raises(UsageError, match="no stored features"),
        Features(tmp_path, tiny_bundle.manifest, writable=False),
    ):
        pass
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "features.json").write_text(json.dumps({"schema": "geal-edge/features/9"}))
    with pytest.raises(UsageError, match="features/9"):
        select([memory()], scribe, tmp_path / "old")
    (tmp_path / "old" / "features.json").write_text("{")
    with pytest.raises(SpoolDamaged, match="not JSON"):
        select([memory()], scribe, tmp_path / "old")


def test_two_writers_do_not_meet(scribe, tiny_bundle, tmp_path):
    with (
        Features(tmp_path / "f", tiny_bundle.manifest, writable=True),
        pytest.raises(SpoolLocked, match="another process"),
    ):
        select([memory()], scribe, tmp_path / "f")


def test_features_without_the_embedding_serve_the_method_but_not_core_set(scribe, tiny_bundle, tmp_path):
    outputs = {name: shape for name, shape in tiny_bundle.manifest.outputs.items() if name != "cls_embedding"}
    bare = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, outputs=outputs))
    with_bare = Scribe(bare)
    config = replace(SELECTIONS["geal"], strategy="coreset-cosine")
    with pytest.raises(UsageError, match="--no-cls"):
        select([memory()], with_bare, config=config)
    select([memory()], with_bare, tmp_path / "f")
    assert not (tmp_path / "f" / "cls.f32").exists()
    select([memory(), memory(3, "more")], scribe, tmp_path / "f")
    with pytest.raises(UsageError, match="stored features have none"):
        select([memory()], scribe, tmp_path / "f", config=config)
    select([memory()], scribe, tmp_path / "g")
    with pytest.raises(UsageError, match="cls_embedding"):
        select([memory()], with_bare, tmp_path / "g")


def test_memory_does_not_grow_with_what_is_stored(scribe, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "BLOCK_BYTES", 1 << 20)
    one = scribe(frame(0).image)
    record = record_of(frame(0))
    with Features(tmp_path / "f", tiny_bundle.manifest, writable=True) as features:
        features.begin(memory(1))
        tracemalloc.start()
        for i in range(3000):
            features.append(replace(record, frame_index=i), one)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (tmp_path / "f" / "tokens.f16").stat().st_size > 36 << 20
    assert peak < 8 << 20


def test_an_engine_starts_with_the_first_frame_and_not_before(tiny_bundle):
    from geal_edge.runtime.backends.ort import OrtCpu

    with LateEncoder(Encoder(tiny_bundle, OrtCpu(tiny_bundle.path / "absent.onnx"))) as late:
        assert late.bundle is tiny_bundle
    with LateEncoder(Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1))) as late:
        assert late(frame(0).image).patch_features.shape == late(frame(1).image).patch_features.shape == (100, 64)
