"""The dashboard and the alert rules: whatever they ask for is told, and Prometheus' own tool finds nothing wrong with them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geal_edge.runtime.metrics import METRICS

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "geal-edge.json"
RULES = ROOT / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool")
OF_TARGETS = {"instance", "vehicle"}


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return read


def queries() -> Iterator[str]:
    """What the dashboard asks for, as Prometheus gets it: of all vehicles."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$vehicle", ".*").replace("$instance", ".*")
            yield expr.replace("$__rate_interval", "1m")


def alerts() -> dict[str, dict[str, str]]:
    """alert -> what is said of it; the file is read as text, since the tests have no YAML."""
    found: dict[str, dict[str, str]] = {}
    for block in (RULES / "alerts.yml").read_text().split("- alert: ")[1:]:
        name, _, rest = block.partition("\n")
        found[name] = {
            "expr": re.findall(r"expr: (?:>-\n)?(.*?)\n        (?:for|labels):", rest, flags=re.DOTALL)[0],
            **dict(re.findall(r'(severity|summary|runbook): "?([^"\n}]+)', rest)),
        }
    return found


def names_and_labels(expr: str) -> Iterator[tuple[str, set[str]]]:
    for name, matchers in re.findall(r"(geal_edge_\w+)(?:\{([^}]*)\})?", expr):
        yield name, set(re.findall(r'(\w+)(?==~?"|!="|!~")', matchers))


def test_what_is_asked_for_is_told():
    told = {metric.full_name: set(metric.labels) for metric in METRICS}
    told["geal_edge_stage_seconds_bucket"] = told["geal_edge_stage_seconds"] | {"le"}
    variables = [each["query"]["query"] for each in dashboard()["templating"]["list"][1:]]
    asked = [*queries(), *variables, *(alert["expr"] for alert in alerts().values())]
    for expr in asked:
        for name, labels in names_and_labels(expr):
            assert name in told, expr
            assert labels <= told[name] | OF_TARGETS, expr


def test_every_alert_says_what_to_do_and_is_tried_and_described():
    page, tried = (ROOT / "docs" / "metrics.md").read_text(), (RULES / "alerts.test.yml").read_text()
    assert len(alerts()) >= 10
    for name, said in alerts().items():
        assert said["severity"] in ("page", "ticket")
        assert "$labels.instance" in said["summary"]
        assert len(said["runbook"]) > 40
        assert f"| `{name}` |" in page
        assert f'alertname="{name}"' in tried
        assert f"alertname: {name}" in tried


def test_a_dashboard_has_what_grafana_needs_to_show_it():
    found = dashboard()
    panels = [panel for panel in found["panels"] if panel["type"] != "row"]
    assert (found["title"], found["uid"]) == ("geal-edge", "geal-edge")
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    for panel in panels:
        place = panel["gridPos"]
        assert panel["type"] in ("timeseries", "stat")
        assert panel["description"].endswith(".")
        assert place["x"] + place["w"] <= 24
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
    squares = {
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }
    assert len(squares) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels)


def promtool(*words: object) -> None:
    if PROMTOOL is None:
        pytest.skip("needs promtool")
    said = subprocess.run([PROMTOOL, *map(str, words)], cwd=RULES, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_prometheus_takes_the_rules_and_they_do_what_they_say():
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts.test.yml")


def test_prometheus_understands_what_the_dashboard_asks(tmp_path):
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))  # JSON is YAML
    assert len(rules) > 30
    promtool("check", "rules", file)
