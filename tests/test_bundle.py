import json
from dataclasses import replace

import pytest

from geal_edge.config import ClusterConfig
from geal_edge.errors import BundleError
from geal_edge.models.bundle import Bundle, digest, feature_space


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
