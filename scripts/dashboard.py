"""Draw the panels of deploy/grafana/geal-edge.json from what a Prometheus has, as a page of HTML: the same queries and places,
not Grafana's own pictures. For looking at a change to the dashboard where no Grafana is at hand.

    python scripts/dashboard.py http://127.0.0.1:9090 dashboard.html [MINUTES]
"""

import html
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, TypeAlias

Series: TypeAlias = tuple[str, list[tuple[float, float]]]

ROOT = Path(__file__).resolve().parent.parent
COLOURS = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0")
COLUMN, ROW = 52, 36
STYLE = (
    "body{margin:8px;background:#111217;color:#ccc;font:12px sans-serif}div{position:absolute;background:#181b1f;"
    "border:1px solid #2c3235;overflow:hidden}h2{font-size:12px;margin:4px 8px}b{font-size:26px;display:block;text-align:center}"
    "p{margin:2px 8px}h1{font-size:14px;position:absolute;margin:8px}"
)


def main(server: str, out: str, minutes: str = "30") -> None:
    end, span_s = time.time_ns() / 1e9, 60.0 * float(minutes)
    panels = json.loads((ROOT / "deploy" / "grafana" / "geal-edge.json").read_text())["panels"]
    body = "".join(drawn(panel, server, end - span_s, end) for panel in panels)
    Path(out).write_text(f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{body}\n")


def drawn(panel: dict[str, Any], server: str, begin: float, end: float) -> str:
    place, title = panel["gridPos"], html.escape(panel["title"])
    left, top = place["x"] * COLUMN, place["y"] * ROW
    if panel["type"] == "row":
        return f'<h1 style="left:{left}px;top:{top}px">{title}</h1>'
    width, height = place["w"] * COLUMN - 8, place["h"] * ROW - 8
    lines = [each for target in panel["targets"] for each in asked(target, server, begin, end)]
    inside = number(lines) if panel["type"] == "stat" else chart(lines, width, height - 60, begin, end)
    return f'<div style="left:{left}px;top:{top}px;width:{width}px;height:{height}px"><h2>{title}</h2>{inside}</div>'


def asked(target: dict[str, Any], server: str, begin: float, end: float) -> list[Series]:
    """(legend, [(when, value)]) of each series, of all vehicles."""
    expr = target["expr"].replace("$vehicle", ".*").replace("$instance", ".*").replace("$__rate_interval", "1m")
    words = urllib.parse.urlencode({"query": expr, "start": begin, "end": end, "step": max(1.0, (end - begin) / 300)})
    with urllib.request.urlopen(f"{server}/api/v1/query_range?{words}", timeout=30) as answer:  # noqa: S310  the caller's own server
        found = json.load(answer)["data"]["result"]
    said = []
    for series in found:
        legend = target["legendFormat"]
        for name, value in series["metric"].items():
            legend = legend.replace("{{" + name + "}}", value)
        said.append((legend, [(at, float(value)) for at, value in series["values"] if value != "NaN"]))
    return said


def number(lines: list[Series]) -> str:
    """The newest value of each."""
    return "".join(f"<b>{values[-1][1]:.4g}</b><p>{html.escape(legend)}</p>" for legend, values in lines if values)


def chart(lines: list[Series], width: int, height: int, begin: float, end: float) -> str:
    top = max((value for _, values in lines for _, value in values), default=0.0) or 1.0
    said, legends = "", ""
    for place, (legend, values) in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        points = " ".join(
            f"{8 + (at - begin) / (end - begin) * (width - 16):.1f},{height - value / top * (height - 12):.1f}"
            for at, value in values
        )
        said += f'<polyline points="{points}" fill="none" stroke="{colour}"/>'
        legends += f'<span style="color:{colour}">&#9644;</span> {html.escape(legend)} '
    axis = f'<text x="8" y="10" fill="#888" font-size="10">{top:.3g}</text>'
    return f'<svg width="{width}" height="{height}">{said}{axis}</svg><p>{legends}</p>'


if __name__ == "__main__":
    main(*sys.argv[1:])
