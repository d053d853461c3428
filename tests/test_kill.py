"""The real process, killed with SIGKILL at random moments, on a real folder of images."""

import random
import shutil
import signal
import subprocess
import sys
import time

from geal_edge.runtime.spoolview import open_view
from tests.test_cli import slow_folder

ROUNDS = 5


def run(folder, bundle, spool):
    words = [sys.executable, "-m", "geal_edge", "run", folder, "-b", bundle, "-s", spool, "--budget", "6", "-q"]
    return subprocess.Popen(list(map(str, words)))


def outcome(spool):
    with open_view(spool) as view:
        assert view.check() == []
        listed = [(line["id"], line["order"], line["distance"]) for line in view.list_lines(retained=True)]
        return listed, view.counts(), view.certificate(), view.timeline.buckets


def test_killed_at_random_moments_and_started_again_it_selects_the_same(tiny_bundle, tmp_path):
    folder = slow_folder(tmp_path, frames=300)
    whole = run(folder, tiny_bundle.path, tmp_path / "whole")
    began = time.monotonic()
    assert whole.wait(120) == 0
    whole_s = time.monotonic() - began
    expected = outcome(tmp_path / "whole")
    chance = random.Random(0)
    kills = 0
    for _ in range(ROUNDS):
        process = run(folder, tiny_bundle.path, tmp_path / "killed")
        try:
            process.wait(chance.uniform(0.2, 0.8) * whole_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if kills == 0:  # the machine is faster than it was: nothing was shown yet
            shutil.rmtree(tmp_path / "killed")
            whole_s /= 2
    last = run(folder, tiny_bundle.path, tmp_path / "killed")
    assert last.wait(120) == 0
    assert kills > 0
    assert outcome(tmp_path / "killed") == expected
