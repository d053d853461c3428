"""Every shared drive through the real command: sound spools, budgets kept, and SIGKILL at random moments.

Slow (minutes): `make test-drives`. Skips where the shared sample data is absent.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from geal_edge.export.exporter import ExportOptions, export_bundle
from geal_edge.models.bundle import Bundle
from geal_edge.models.weights import load_weights
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import usable
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pipeline import clusters_of
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
DRIVES = sorted((SHARED / "drives").glob("*.mp4")) or [SHARED / "drives" / "absent.mp4"]
FPS = 5.0
BUDGET = 50
KILLS = 2  # per drive: 28 over the 14 drives

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the shared sample data in {SHARED}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """The shared trained ViT-Tiny; trained with mean and std 0.5."""
    half = (0.5, 0.5, 0.5)
    weights = load_weights(SHARED / "weights" / "vit_tiny_patch16_224.safetensors")
    out = tmp_path_factory.mktemp("drives") / "bundle"
    return export_bundle(weights, out, ExportOptions(mean=half, std=half), watch=Silent())[0]


def run(drive, bundle, spool):
    words = ["run", drive, "--bundle", bundle.path, "--spool", spool, "--budget", BUDGET, "--fps", FPS, "--quiet"]
    return subprocess.Popen([sys.executable, "-m", "geal_edge", *map(str, words)])


def outcome(spool):
    with open_view(spool) as view:
        assert view.check() == []
        listed = [(line["id"], line["order"], line["distance"]) for line in view.list_lines(retained=True)]
        return listed, view.counts(), view.certificate(), view.timeline.buckets


@pytest.mark.parametrize("drive", DRIVES, ids=lambda path: path.stem)
def test_a_drive_killed_and_started_again_selects_the_same(drive, bundle, tmp_path):
    began = time.monotonic()
    assert run(drive, bundle, tmp_path / "whole").wait(300) == 0
    whole_s = time.monotonic() - began
    expected = outcome(tmp_path / "whole")
    counts, lost = expected[1]
    assert counts["selected"] == min(BUDGET, counts["retained"])
    assert counts["seen"] > 0
    assert lost == {}
    chance = random.Random(drive.stem)
    kills = 0
    while kills < KILLS:
        process = run(drive, bundle, tmp_path / "killed")
        try:
            process.wait(chance.uniform(0.1, 0.7) * whole_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            if kills:
                break  # it went on so far that it ended before this kill
            shutil.rmtree(tmp_path / "killed")  # the machine is faster than it was: nothing was shown yet
            whole_s /= 2
    assert kills > 0
    assert run(drive, bundle, tmp_path / "killed").wait(300) == 0
    assert outcome(tmp_path / "killed") == expected


def test_the_certificate_holds_on_a_real_drive(bundle, tmp_path):
    drive = DRIVES[0]
    assert run(drive, bundle, tmp_path / "spool").wait(300) == 0
    with open_view(tmp_path / "spool") as view:
        selected = {frame.unit for frame in view.selected()}
        rows = np.concatenate([u.rows for u in view.ladder().snapshot() if u.unit in selected])
        certificate = view.certificate()
    with Encoder(bundle, OrtCpu(bundle.graph)) as encoder:
        frames = [usable(item) for item in open_source(str(drive), fps=FPS).frames()]
        worst = max(squared_distances(clusters_of(f, encoder).rows, rows).min(axis=1).max() for f in frames)
    assert certificate.radius is not None
    assert certificate.lower_bound <= certificate.radius
    assert np.sqrt(worst) <= certificate.radius
