"""A real Prometheus, where it is installed: it scrapes a service at work, and hears of a fault that is put in.

Debian: apt-get install prometheus prometheus-node-exporter. `make test-metrics`
"""

import json
import re
import shutil
import signal
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_dashboard import RULES, queries
from tests.test_metrics import free_port
from tests.test_service import Ear, camera, config, ear, service  # noqa: F401  fixtures

PROMETHEUS = shutil.which("prometheus")
SCRAPE = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: geal-edge
    static_configs: [{{targets: ["127.0.0.1:{port}"], labels: {{vehicle: car-17}}}}]
"""
UNTOLD = re.compile(
    "camera_lost|lost_total|gated_total|temperature|held_down|spool_max|upload_(failures|set_aside)|budget_refill|written"
)
"""Of what there is none in a run where nothing goes wrong, on a machine without sensors: nothing is told of it."""


class Server:
    """Prometheus' API."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **words: str) -> Any:
        with urllib.request.urlopen(f"{self._address}{path}?{urllib.parse.urlencode(words)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def series(self, expr: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("/api/v1/query", query=expr)["result"]
        return found

    def firing(self) -> set[str]:
        return {
            alert["labels"]["alertname"] for alert in self.ask("/api/v1/alerts")["alerts"] if alert["state"] == "firing"
        }


def until(true: Callable[[], object], what: str) -> None:
    """Looks a few times a second, for two minutes: Prometheus looks once."""
    pause = threading.Event()
    for _ in range(480):
        try:
            if true():
                return
        except OSError:
            pass  # it does not listen yet
        pause.wait(0.25)
    raise AssertionError(what)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[Server, int]]:
    """A server that scrapes a port every second, by our rules with minutes for seconds, and that port."""
    if PROMETHEUS is None:
        pytest.skip("needs prometheus")
    port, target, folder = free_port(), free_port(), tmp_path / "prometheus"
    folder.mkdir()
    rules = (RULES / "alerts.yml").read_text()
    (folder / "alerts.yml").write_text(re.sub(r"(?<=for: )\d+m|(?<=\[)\d+m(?=\])", "4s", rules))
    (folder / "prometheus.yml").write_text(SCRAPE.format(port=target))
    words = [
        PROMETHEUS,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Server(port), target
    finally:
        running.kill()
        running.wait()


def test_a_dashboard_has_something_to_show_and_an_alert_fires_when_the_cameras_go(ear, config, prometheus):  # noqa: F811
    server, port = prometheus
    config.write_text(f"{config.read_text()}flush_s = 1\n[metrics]\nlisten = {port}\n")
    frames = "rate(geal_edge_frames_seen_total[10s]) > 0"
    with service(ear, config) as running:
        with camera(config.parent / "in"):
            until(lambda: server.series(frames), "no frame is seen")
            until(lambda: not server.firing(), "something is wrong from the start")
            until(
                lambda: server.series("histogram_quantile(0.5, rate(geal_edge_stage_seconds_bucket[10s])) > 0"), "p50"
            )
            silent = [expr for expr in queries() if not server.series(expr.replace("1m", "10s"))]
            assert [expr for expr in silent if not UNTOLD.search(expr)] == []
            (info,) = server.series("geal_edge_info")
            assert info["metric"]["vehicle"] == "car-17"
        until(lambda: "GealEdgeNoFrames" in server.firing(), "no frames come, and no alert")
        with camera(config.parent / "in"):
            until(lambda: "GealEdgeNoFrames" not in server.firing(), "they come again, and it is not heard")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130


def test_node_exporter_shows_what_the_file_says(ear, config, tmp_path):  # noqa: F811
    collector = shutil.which("prometheus-node-exporter")
    if collector is None:
        pytest.skip("needs prometheus-node-exporter")
    folder, port = tmp_path / "collected", free_port()
    folder.mkdir()
    config.write_text(f'{config.read_text()}[metrics]\ntextfile = "{folder}/geal-edge.prom"\nevery_s = 1\n')
    words = [collector, f"--collector.textfile.directory={folder}", f"--web.listen-address=127.0.0.1:{port}"]

    def shown(name: str) -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return [line for line in answer.read().decode().splitlines() if line.startswith(name)]

    collecting = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with camera(config.parent / "in"), service(ear, config) as running:
            until(lambda: shown('geal_edge_stage_seconds_count{stage="append"}'), "nothing is collected")
            assert shown("node_textfile_scrape_error") == ["node_textfile_scrape_error 0"]
            assert len(shown("node_textfile_mtime_seconds")) == 1
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 130
        until(lambda: not shown("geal_edge_"), "what has ended is told on")
    finally:
        collecting.kill()
        collecting.wait()
