import numpy as np
import pytest

from geal_edge.config import ClusterConfig
from geal_edge.errors import UsageError
from geal_edge.models.bundle import feature_space
from geal_edge.runtime import pool
from geal_edge.runtime.distill import distill
from geal_edge.runtime.downsampling import downsample
from geal_edge.runtime.observer import Silent
from tests.fakes import MemorySource, frame

GRID = (8, 10)


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(80, 6)), rng.dirichlet(np.full(80, 0.3))


def made(name, k=25, frame_id="a", seed=0):
    tokens, attention = drawn()
    recipe = ClusterConfig(downsampling=name, clusters_per_frame=k, kmeans_seed=seed)
    return downsample(tokens, attention, recipe, grid=GRID, frame_id=frame_id)


def test_a1_is_the_feature_map_resized_as_opencv_resizes_it():
    import cv2

    tokens, _ = drawn()
    expected = cv2.resize(tokens.reshape(8, 10, 6), (5, 5), interpolation=cv2.INTER_LINEAR).reshape(25, 6)
    vectors, patch_cluster = made("A1")
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert patch_cluster.reshape(GRID)[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert set(patch_cluster) == set(range(25))


@pytest.mark.parametrize("name", ["A2", "A3"])
def test_a2_and_a3_draw_patches_evenly_before_and_after_the_distillation(name):
    tokens, attention = drawn()
    allowed = range(80) if name == "A2" else distill(tokens, attention, attention_ratio=0.5).patches
    counts = sum((made(name, k=4, frame_id=str(i))[1] >= 0).astype(int) for i in range(400))
    assert set(np.flatnonzero(counts)) == set(allowed)
    expected = 400 * min(4, len(allowed)) / len(allowed)
    assert np.abs(counts[list(allowed)] - expected).max() < 6 * np.sqrt(expected)


def test_a4_takes_the_patches_of_the_greatest_attention():
    tokens, attention = drawn()
    strongest = sorted(np.argsort(-attention)[:25])
    vectors, patch_cluster = made("A4")
    assert np.array_equal(vectors, tokens[strongest])
    assert np.flatnonzero(patch_cluster >= 0).tolist() == strongest


def test_a_draw_depends_on_the_frame_and_the_seed_alone():
    assert np.array_equal(made("A2")[1], made("A2")[1])
    assert not np.array_equal(made("A2")[1], made("A2", frame_id="b")[1])
    assert not np.array_equal(made("A2")[1], made("A2", seed=1)[1])


def test_fewer_patches_than_k_are_all_taken_and_a_map_larger_than_the_grid_is_refused():
    assert len(made("A2", k=100)[0]) == len(made("A4", k=100)[0]) == 80
    with pytest.raises(UsageError, match="smaller than 9 x 9"):
        made("A1", k=81)
    with pytest.raises(UsageError, match="square"):
        ClusterConfig(downsampling="A1", clusters_per_frame=24)


def test_each_alternative_is_a_feature_space_of_its_own_and_the_default_names_none(encoder):
    manifest = encoder.bundle.manifest
    recipes = [ClusterConfig(downsampling=name) for name in ("clusters", "A1", "A2", "A3", "A4")]
    assert len({feature_space(manifest, recipe) for recipe in recipes}) == 5
    assert "downsampling" not in ClusterConfig().as_dict()
    drawn_otherwise = ClusterConfig(downsampling="A2", kmeans_seed=1)
    assert feature_space(manifest, drawn_otherwise) != feature_space(manifest, recipes[2])


@pytest.mark.parametrize("name", ["A1", "A2", "A3", "A4"])
def test_select_works_on_them(encoder, name):
    recipe = ClusterConfig(downsampling=name, clusters_per_frame=9)
    selection = pool.select(
        [MemorySource([frame(i) for i in range(5)])], encoder=encoder, budget=3, recipe=recipe, watch=Silent()
    )
    assert all(1 <= len(f.clusters.rows) <= 9 for f in selection.frames)
    for pick in selection.picks[1:]:
        assert pick.witness is not None
        assert selection.frames[pick.unit].clusters.patches_of(pick.witness)
