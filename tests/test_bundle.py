import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import pytest

from geal_edge.config import ClusterConfig
from geal_edge.errors import BundleError
from geal_edge.models.bundle import Bundle, digest, feature_space, file_digest
from geal_edge.runtime.reference import MAX_BYTES, read_reference
from tests.tampered import with_graph, with_manifest


@pytest.fixture
def copied(tiny_bundle, tmp_path):
    """A copy that a test may damage."""
    import shutil

    return shutil.copytree(tiny_bundle.path, tmp_path / "bundle")


def edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_read_back_says_what_was_exported(tiny_bundle):
    bundle = Bundle.open(tiny_bundle.path)
    assert bundle == tiny_bundle
    assert bundle.manifest.grid == (10, 10)
    assert bundle.manifest.outputs["cls_attention"] == ("N", 100)
    assert bundle.digest == digest((bundle.path / "manifest.json").read_bytes())


def test_the_feature_space_is_decided_by_what_decides_clusters_and_nothing_else(tiny_bundle):
    manifest = tiny_bundle.manifest
    same = [
        replace(manifest, precision="int8"),
        replace(manifest, batch=4),
        replace(manifest, producer="another"),
        replace(manifest, graph_digest="sha256:other"),
        replace(manifest, weights={**manifest.weights, "origin": "another name"}),
    ]
    other = [
        replace(manifest, width=320),
        replace(manifest, tap="raw"),
        replace(manifest, resize="area"),
        replace(manifest, mean=(0.5, 0.5, 0.5)),
        replace(manifest, std=(0.5, 0.5, 0.5)),
        replace(manifest, weights={**manifest.weights, "digest": "sha256:other"}),
    ]
    assert {m.feature_space for m in same} == {manifest.feature_space}
    assert manifest.feature_space not in {m.feature_space for m in other}
    knobs = [
        ClusterConfig(attention_ratio=0.6),
        ClusterConfig(ratio_rule="paper"),
        ClusterConfig(clusters_per_frame=5),
        ClusterConfig(kmeans_metric="euclidean"),
        ClusterConfig(kmeans_start="random"),
        ClusterConfig(kmeans_start="random", kmeans_seed=1),
        ClusterConfig(kmeans_steps=10),
    ]
    assert len({feature_space(manifest, k) for k in [ClusterConfig(), *knobs]}) == len(knobs) + 1
    assert feature_space(manifest, ClusterConfig(kmeans_seed=1)) == manifest.feature_space  # a seed never drawn from


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(schema="geal-edge/bundle/99"), "bundle/99"),
        (lambda m: m.pop("input"), "input"),
        (lambda m: m["input"].update(width=161), "multiple of patch size"),
        (lambda m: m["input"].update(width=176), "feature_space"),
        (lambda m: m["input"].update(mean=[0.5]), "believed"),
        (lambda m: m["input"].update(resize="lanczos"), "resize filter"),
        (lambda m: m["clusters"].update(attention_ratio=7), "attention_ratio"),
        (lambda m: m["clusters"].update(surprise=1), "surprise"),
        (lambda m: m["graph"].update(digest="sha256:0"), "digest"),
        (lambda m: m["weights"].update(digest="sha256:0"), "feature_space"),
    ],
)
def test_a_manifest_that_was_edited_is_refused_in_a_sentence(copied, change, words):
    edit(copied, change)
    with pytest.raises(BundleError, match=words):
        Bundle.open(copied)


def test_damaged_and_absent_files_are_refused_in_a_sentence(copied, tmp_path):
    with pytest.raises(BundleError, match="geal-edge export"):
        Bundle.open(tmp_path / "nothing")
    graph = copied / "model.onnx"
    data = graph.read_bytes()
    graph.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx: digest"):
        Bundle.open(copied)
    graph.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: No such file"):
        Bundle.open(copied)
    (copied / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        Bundle.open(copied)
    (copied / "manifest.json").write_text("[]")
    with pytest.raises(BundleError, match="object"):
        Bundle.open(copied)


@pytest.mark.parametrize("place", ["weights.bin", "../secret.bin", "/etc/shadow"])
def test_a_graph_whose_tensors_lie_in_other_files_is_refused(tiny_bundle, tmp_path, place):
    model = onnx.load(str(tiny_bundle.graph))
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    with pytest.raises(BundleError, match="keeps tensors in other files, which no digest covers"):
        with_graph(tiny_bundle, tmp_path / "bundle", lambda graph: graph.write_bytes(model.SerializeToString()))


def array_of(shape: tuple[int, ...], dtype: str, data: bytes = b"") -> bytes:
    """An .npy file that says so."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
    return head.getvalue() + data


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (array_of((1 << 45,), "|u1"), "Unable to allocate|cannot be read"),
        (array_of((1,), "|O", b"cos\nsystem\n(S'true'\ntR."), "Object arrays cannot be loaded"),
        (None, f"it says that it holds more than {MAX_BYTES} bytes"),
    ],
)
def test_reference_frames_that_would_fill_the_memory_or_run_code_are_refused(copied, entry, words):
    with zipfile.ZipFile(copied / "reference.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", entry or b"")
    if entry is None:  # what it says of itself is a field in the archive
        data = (copied / "reference.npz").read_bytes()
        at = data.rindex(b"PK\x01\x02") + 24
        (copied / "reference.npz").write_bytes(data[:at] + (MAX_BYTES + 1).to_bytes(4, "little") + data[at + 4 :])
    bundle = with_manifest(copied, lambda data: data["reference"].update(digest=file_digest(copied / "reference.npz")))
    with pytest.raises(BundleError, match=words):
        read_reference(bundle)
