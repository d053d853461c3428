import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geal_edge.errors import BundleError, ParityError, SourceError, UsageError
from geal_edge.export import exporter
from geal_edge.export.exporter import ExportOptions, export_bundle
from geal_edge.export.graph import build_graph
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from tests.tiny import TINY8, tiny_weights

SMALL = ExportOptions(width=96, height=64)


def export(out, weights=None, options=SMALL, **more):
    return export_bundle(weights or tiny_weights(), out, options, watch=Silent(), **more)[0]


def test_a_bundle_holds_graph_manifest_and_reference_and_nothing_else(tmp_path):
    bundle = export(tmp_path / "b")
    assert sorted(p.name for p in bundle.path.iterdir()) == ["manifest.json", "model.onnx", "reference.npz"]
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert bundle.manifest.parity["passed"]
    assert bundle.manifest.untrained


def test_the_same_weights_and_options_give_the_same_bytes_in_another_process(tmp_path):
    here = export(tmp_path / "here")
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from tests.test_exporter import export
export(Path({str(tmp_path / "there")!r}))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    for name in ("model.onnx", "reference.npz", "manifest.json"):
        assert (here.path / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_nothing_in_a_bundle_tells_where_it_was_made(tmp_path):
    bundle = export(tmp_path / "a_place_of_its_own")
    for path in bundle.path.iterdir():
        assert b"a_place_of_its_own" not in path.read_bytes()


def test_the_reference_frames_and_their_float64_answers_check_an_engine_without_onnx(tmp_path):
    bundle = export(tmp_path / "b", tiny_weights(TINY8))
    with np.load(bundle.reference, allow_pickle=False) as reference, OrtCpu(bundle.graph) as backend:
        image = reference["image"]
        assert image.shape == (8, 64, 96, 3)
        assert image.dtype == np.uint8
        answer = backend.run({"image": image})
        assert set(reference.files) == {"image", *answer}
        for name, values in answer.items():
            assert reference[name].dtype == np.float64
            assert np.abs(reference[name] - values).max() < 2e-3


def test_reference_frames_come_from_the_users_source_where_one_is_given(tmp_path):
    drive = open_source("drawn:3:40")
    bundle = export(tmp_path / "b", check=drive)
    assert bundle.manifest.reference_origin == drive.name


def test_a_fixed_batch_larger_than_the_rest_of_the_frames_is_checked_too(tmp_path):
    bundle = export(tmp_path / "b", options=replace(SMALL, batch=3))
    assert bundle.manifest.batch == 3
    assert bundle.manifest.outputs["patch_features"][0] == 3


def test_raw_features_are_held_against_their_own_size(tmp_path):
    weights = tiny_weights()
    loud = replace(
        weights, tensors={n: t * 50 if n == "patch_embed.proj.weight" else t for n, t in weights.tensors.items()}
    )
    bundle = export(tmp_path / "b", loud, replace(SMALL, tap="raw"))
    assert bundle.manifest.tap == "raw"
    assert bundle.manifest.parity["outputs"]["patch_features"]["error_tolerance"] > 2e-3


def test_without_cls_the_output_is_left_out(tmp_path):
    bundle = export(tmp_path / "b", options=replace(SMALL, cls_embedding=False))
    assert set(bundle.manifest.outputs) == {"patch_features", "cls_attention"}


def test_a_graph_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    other = tiny_weights(seed=1)
    monkeypatch.setattr(exporter, "build_graph", lambda _, **options: build_graph(other, **options))
    with pytest.raises(ParityError, match="no bundle was written"):
        export(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_is_replaced_and_anything_else_is_not(tmp_path):
    export(tmp_path / "b")
    newer = export(tmp_path / "b", tiny_weights(seed=2))
    assert Bundle.open(tmp_path / "b").digest == newer.digest
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="is no bundle"):
        export(tmp_path / "project")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(BundleError, match="is no bundle"):
        export(tmp_path / "photos")
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_a_size_that_the_patch_does_not_divide_is_refused_with_two_that_work(tmp_path):
    with pytest.raises(UsageError, match="Use 96x48 or 112x64"):
        export(tmp_path / "b", options=replace(SMALL, width=100, height=50))


def test_a_check_source_without_a_usable_frame_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(SourceError, match="no usable frame"):
        export(tmp_path / "b", check=open_source(str(tmp_path / "images")))


def test_the_manifest_is_plain_json_that_a_person_can_read(tmp_path):
    manifest = json.loads((export(tmp_path / "b").path / "manifest.json").read_text())
    assert manifest["schema"] == "geal-edge/bundle/1"
    assert manifest["input"] == {
        "name": "image",
        "width": 96,
        "height": 64,
        "batch": None,
        "resize": "pil_bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert manifest["clusters"]["clusters_per_frame"] == 25
