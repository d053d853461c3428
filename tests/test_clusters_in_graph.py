"""A bundle whose graph ends at the knowledge clusters, from `export` to the picks; beside it the same without."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from geal_edge.cli.app import app
from geal_edge.config import ClusterConfig, SelectionConfig
from geal_edge.errors import BackendError, ParityError, UsageError
from geal_edge.export.exporter import ExportOptions, export
from geal_edge.export.framerows import own_rows
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pipeline, pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.bench import stages
from geal_edge.runtime.clusterparity import compare_all
from geal_edge.runtime.encoder import Encoder, graph_clusters
from geal_edge.runtime.features import Features
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.parity import TOLERANCES
from geal_edge.runtime.pipeline import clusters_of_image
from geal_edge.runtime.reference import read_reference
from geal_edge.runtime.selection_parity import COVER_TOLERANCE
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.verify import verify
from tests.fakes import frame
from tests.tiny import tiny_weights

DRIVE = "drawn:1:24"
OPTIONS = ExportOptions(width=160, height=160, clusters=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return export(tiny_weights(), tmp_path_factory.mktemp("grouped") / "bundle", OPTIONS, watch=Silent()).bundle


@pytest.fixture
def grouping(bundle):
    """An encoder whose graph groups; `encoder` is the same without."""
    with Encoder(bundle, OrtCpu(bundle.graph, threads=1)) as ready:
        yield ready


def test_the_bundle_says_what_comes_out_and_shares_the_feature_space_of_the_hosts(bundle, tiny_bundle):
    outputs = bundle.manifest.outputs
    assert (outputs["clusters"], outputs["cluster_count"], outputs["patch_cluster"]) == (
        ("N", 25, 64),
        ("N",),
        ("N", 100),
    )
    assert bundle.manifest.clusters_in_graph
    assert not tiny_bundle.manifest.clusters_in_graph
    assert bundle.manifest.feature_space == tiny_bundle.manifest.feature_space
    assert set(bundle.manifest.parity["outputs"]) >= {"clusters", "patch_cluster", "cluster_spread"}
    assert bundle.manifest.parity["selection"]["passed"]
    assert bundle.manifest.parity["selection"]["origin"] == "drawn"


def test_the_graphs_clusters_and_patches_are_the_hosts(grouping, encoder):
    for i in range(8):
        image = frame(i).image
        ours, theirs = clusters_of_image(image, grouping), clusters_of_image(image, encoder)
        assert grouping(image).clusters is not None
        assert ours.patch_cluster.tolist() == theirs.patch_cluster.tolist()
        assert np.abs(ours.rows.astype(np.float64) - theirs.rows).max() <= 2**-11


def test_what_is_measured_of_a_graph_that_groups_has_no_grouping_by_the_host(grouping, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the host grouped")

    monkeypatch.setattr(stages, "distill", never)
    monkeypatch.setattr(stages, "knowledge_clusters", never)
    costs = stages.measure_stages(open_source(DRIVE), grouping, tmp_path / "s", budget=3, frames=6)
    assert costs.frames == len(costs.wall_ms["distil"]) == len(costs.wall_ms["cluster"]) == 6
    with open_view(tmp_path / "s") as view:
        assert view.check() == []


def test_a_run_and_a_selection_pick_what_they_pick_with_the_hosts_clusters(grouping, encoder, tmp_path):
    drive = open_source(DRIVE)
    listed = []
    for name, each in (("graph", grouping), ("host", encoder)):
        pipeline.run([drive], encoder=each, spool_path=tmp_path / name, budget=5, watch=Silent())
        with open_view(tmp_path / name) as view:
            assert view.check() == []
            listed.append([(line["id"], line["witness"]) for line in view.list_lines()])
    assert listed[0] == listed[1]
    picks = [pool.select([drive], encoder=each, budget=5, watch=Silent()).picks for each in (grouping, encoder)]
    assert [pick.unit for pick in picks[0]] == [pick.unit for pick in picks[1]]


def test_another_recipe_at_select_is_grouped_by_the_host(grouping, encoder):
    recipe = ClusterConfig(clusters_per_frame=5, kmeans_metric="euclidean")
    ours, theirs = (
        pool.read_pool([open_source("drawn:1:4")], encoder=each, recipe=recipe, watch=Silent())
        for each in (grouping, encoder)
    )
    for one, other in zip(ours.frames, theirs.frames, strict=True):
        assert (one.clusters.rows == other.clusters.rows).all()


def test_euclid_measures_the_plain_means_of_the_graphs_clusters(grouping, encoder):
    config = SelectionConfig(metric="euclidean")
    ours, theirs = (
        pool.read_pool([open_source("drawn:1:4")], encoder=each, config=config, watch=Silent())
        for each in (grouping, encoder)
    )
    for one, other in zip(ours.frames, theirs.frames, strict=True):
        assert one.raw == pytest.approx(other.raw, abs=1e-3)


def test_features_give_the_same_clusters_when_they_are_stored_and_when_they_are_read_again(grouping, bundle, tmp_path):
    pools = []
    for _ in range(2):
        with Features(tmp_path / "f", bundle.manifest, writable=True) as features:
            drive = open_source("drawn:1:6")
            pools.append(pool.read_pool([drive], encoder=grouping, features=features, watch=Silent()))
    for one, other in zip(*(each.frames for each in pools), strict=True):
        assert (one.clusters.rows == other.clusters.rows).all()


def test_verify_holds_the_graphs_clusters_against_the_hosts(bundle):
    found = verify(bundle, "ort-cpu", lambda _: OrtCpu(bundle.graph, threads=1), watch=Silent())
    assert found.passed
    assert found.parity is not None
    assert {output.name for output in found.parity.outputs} >= {"clusters", "patch_cluster", "cluster_spread"}


@pytest.fixture
def answered(bundle, grouping):
    """(the float64 answers, this engine's own, the recipe): all of the reference frames."""
    reference = read_reference(bundle)
    each = [{name: v.copy() for name, v in grouping.answer(image).items()} for image in reference.frames]
    return reference.answers, {name: np.stack([a[name] for a in each]) for name in each[0]}, bundle.manifest.clusters


def _swapped(answer):
    answer["clusters"][3, [0, 1]] = answer["clusters"][3, [1, 0]]


def _merged(answer):
    labels = answer["patch_cluster"][2]
    labels[labels >= 0] = 0
    answer["cluster_count"][2] = 1
    present = answer["patch_features"][2][labels >= 0].astype(np.float16).astype(np.float64).mean(axis=0)
    answer["clusters"][2, 0] = present / np.linalg.norm(present)


def _least_attended(answer):
    labels = answer["patch_cluster"][5]
    labels[labels < 0] = 0


def _nan(answer):
    answer["clusters"][0, 0, 0] = np.nan


def _nothing_seen(answer):
    answer["patch_features"][:] = 0.0


def _nothing_attended(answer):
    answer["cls_attention"][:] = 0.0


def _none(answer):
    answer["cluster_count"][1] = 0
    answer["patch_cluster"][1] = -1


def _one_unnamed(answer):
    answer["cluster_count"][1] += 1


def _too_many(answer):
    answer["cluster_count"][1] = 26
    answer["patch_cluster"][1, :26] = np.arange(26)


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (_swapped, "clusters"),
        (_merged, "cluster_spread"),
        (_least_attended, "patch_cluster"),
        (_nan, "clusters"),
        (_nothing_seen, "clusters"),
        (_nothing_attended, "clusters"),
        (_none, "clusters"),
        (_one_unnamed, "clusters"),
        (_too_many, "clusters"),
    ],
)
def test_clusters_that_are_not_the_hosts_are_found_by_what_is_wrong_with_them(answered, change, fails):
    reference, answer, recipe = answered
    assert compare_all(reference, answer, TOLERANCES["fp32"], recipe).passed
    change(answer)
    report = compare_all(reference, answer, TOLERANCES["fp32"], recipe)
    assert fails in [output.name for output in report.outputs if not output.passed]


@pytest.mark.parametrize("change", [_nan, _none, _one_unnamed, _too_many])
def test_an_answer_that_no_cluster_can_be_is_not_believed(answered, change):
    _, answer, _ = answered
    change(answer)
    frame_of = 0 if change is _nan else 1
    with pytest.raises(BackendError, match="cannot be trusted"):
        graph_clusters({name: values[frame_of] for name, values in answer.items()})


@pytest.mark.parametrize("name", ["clusters", "patch_features"])
def test_what_has_no_direction_is_left_to_the_host_who_says_so_of_the_frame(answered, name):
    _, answer, recipe = answered
    one = {each: values[0] for each, values in answer.items()}
    one[name][: len(one[name]) if name == "patch_features" else 1] = 0.0
    assert graph_clusters(one) is None
    assert (own_rows(one, recipe) is None) is (name == "patch_features")


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-dynamic"])
def test_every_precision_goes_with_clusters_and_is_measured_with_them(tmp_path, precision):
    options = replace(OPTIONS, precision=precision, max_loss=0.1)
    source = open_source("drawn:0:6")
    exported = export(tiny_weights(), tmp_path / "b", options, check=source, calibrate=source, watch=Silent())
    manifest = exported.bundle.manifest
    assert manifest.clusters_in_graph
    assert manifest.parity["selection"]["passed"]
    assert {"clusters", "cluster_spread"} <= set(manifest.parity["outputs"])
    with Encoder(exported.bundle, OrtCpu(exported.bundle.graph, threads=1)) as encoder:
        assert 1 <= len(clusters_of_image(frame(0).image, encoder).rows) <= 25


def test_clusters_that_select_worse_than_the_hosts_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(COVER_TOLERANCE, "fp32", -0.5)
    with pytest.raises(ParityError, match="select worse than the host's"):
        export(tiny_weights(), tmp_path / "b", OPTIONS, check=open_source("drawn:0:6"), watch=Silent())
    assert list(tmp_path.iterdir()) == []


def test_a_preset_that_no_graph_has_is_refused_by_name(tmp_path):
    options = replace(OPTIONS, preset="freesel")
    with pytest.raises(UsageError, match="kmeans_metric is 'euclidean'"):
        export(tiny_weights(), tmp_path / "b", options, check=open_source("drawn:0:2"), watch=Silent())


def test_a_fixed_batch_groups_each_of_its_frames(tmp_path, encoder):
    options = replace(OPTIONS, batch=3)
    bundle = export(tiny_weights(), tmp_path / "b", options, check=open_source("drawn:0:6"), watch=Silent()).bundle
    assert bundle.manifest.outputs["clusters"] == (3, 25, 64)
    with Encoder(bundle, OrtCpu(bundle.graph, threads=1)) as three:
        ours, theirs = (clusters_of_image(frame(4).image, each) for each in (three, encoder))
    assert (ours.patch_cluster == theirs.patch_cluster).all()


def test_inspect_names_the_outputs_with_their_types_and_where_clusters_are_made(bundle):
    result = CliRunner().invoke(app, ["inspect", str(bundle.path)])
    assert "clusters: float32 [N, 25, 64]" in result.stdout
    assert "patch_cluster: int32 [N, 100]" in result.stdout
    assert "made in the graph" in result.stdout
