"""What Prometheus is told of a service: each metric's name, kind and meaning, its values, and the text that they go out in.

    Telemetry.snapshot (memory) + SpoolView.tally (what is committed) -> samples -> text

docs/metrics.md has the table. Who counts is written beside each metric. `spool`: what is committed, so a counter goes on over
restarts and power cuts and never back, and is behind by `spool.flush_s` at most. `process`: since the process began, from 0.
`now`: a gauge. The text format is small, so it is written here: no library is needed on the vehicle.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, TypeAlias

from geal_edge.runtime.telemetry import by_state
from geal_edge.runtime.vehicletime import age_s

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """name: without `geal_edge_`; help: one sentence; source: who counts, as above."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    source: Literal["spool", "process", "now"]
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        return f"geal_edge_{self.name}"


def _counter(name: str, source: Literal["spool", "process"], text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="counter", help=text, source=source, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="gauge", help=text, source="now", labels=labels)


METRICS = (
    # the process
    _gauge("info", "1; who it is, and by what it selects", "vehicle_id", "version", "bundle", "engine"),
    _gauge("process_start_time_seconds", "when the process began, in seconds of the wall clock"),
    _counter("process_cpu_seconds_total", "process", "CPU time that the process took"),
    _gauge("process_resident_memory_bytes", "memory that the process has"),
    _gauge("told_age_seconds", "seconds since the thread that decides told of itself; grows where it hangs"),
    _gauge("temperature_celsius", "of the hottest sensor; absent where none tells"),
    _counter("engine_changes_total", "process", "engines that failed and were replaced"),
    _gauge("engine_fallback", "1: another engine answers than the one that the process began with"),
    _counter("written_bytes_total", "process", "bytes of the process that went to a device, as the kernel counts"),
    _counter("commits_total", "process", "transactions of the spool"),
    # frames
    _counter("frames_seen_total", "spool", "frames seen"),
    _counter("frames_total", "spool", "what became of each frame seen; its sum is what was seen", "state"),
    _counter("lost_total", "spool", "frames that no decision saw, by why", "reason"),
    _counter("gated_total", "spool", "frames that a gate held back, by which", "reason"),
    _counter("evicted_total", "spool", "retained frames that gave way to others"),
    _gauge("newest_judged_age_seconds", "seconds since a frame was judged last; absent before the first"),
    Metric(
        name="stage_seconds",
        kind="histogram",
        help="how long a stage of a frame took",
        source="process",
        labels=("stage",),
    ),
    # cameras
    _counter("camera_shots_total", "process", "pictures that a camera has shown, looked at or not", "camera"),
    _counter("camera_lost_total", "process", "frames of a camera that no decision saw, by why", "camera", "reason"),
    _gauge("camera_waiting_frames", "frames of a camera in its queue", "camera"),
    _gauge("camera_silent_seconds", "seconds since a camera's last picture", "camera"),
    _gauge("rate_hertz", "frames of each camera that are looked at per second, in force now"),
    _gauge("rate_asked_hertz", "the same as it was asked for"),
    _gauge("rate_held_down", "1: the rate is lowered, for this", "cause"),
    # the selection
    _gauge("radius_chord", "every cluster seen is within it of a retained one; absent where none can be certified"),
    _gauge("radius_lower_bound_chord", "no choice of as many single patches gets below it"),
    _gauge("round", "number of the open round"),
    _gauge("retained_units", "units that the open round retains"),
    _gauge("budget_limit", "what a cap of the budget allows in its period", "unit", "period"),
    _gauge("budget_spent", "what of it is spent", "unit", "period"),
    _gauge("budget_refill_seconds", "seconds until it starts anew; absent where nobody knows", "unit", "period"),
    # the spool and its disk
    _gauge("spool_readable", "1: the spool could be read for this; 0: what is counted in it is absent"),
    _gauge("spool_frames", "frames in the spool by state", "state"),
    _gauge("spool_bytes", "all files of the spool"),
    _gauge("spool_max_bytes", "its quota; absent where it has none"),
    _gauge("disk_free_bytes", "free on its disk"),
    _gauge("disk_min_free_bytes", "what is to stay free there"),
    # the upload
    _gauge("uploader_up", "1: an uploader works on the spool"),
    _gauge("upload_link", "1: what the uploader did last", "state"),
    _gauge("upload_failures_in_a_row", "failures since something was sent last"),
    _counter("upload_failures_total", "spool", "tries that failed, by why", "reason"),
    _counter("uploaded_frames_total", "spool", "frames that the far side has acknowledged"),
    _counter("uploaded_bytes_total", "spool", "bytes of them"),
    _gauge("upload_waiting_units", "released units that are to be sent"),
    _gauge("upload_waiting_bytes", "bytes of them, context apart"),
    _gauge("upload_oldest_age_seconds", "seconds since the oldest of them and of those set aside was stored; 0: there is none"),
    _gauge("upload_set_aside_units", "released units that the far side did not take, by why", "reason"),
)  # fmt: skip
"""All there are, in the order in which they are told."""

LINK_STATES = ("sending", "idle", "closed", "failing")

Sample: TypeAlias = tuple[str, Mapping[str, str], float | None]
"""(name without `geal_edge_`, labels, value); None: nothing is told of it now."""


def told(
    snapshot: Mapping[str, Any], tally: Mapping[str, Any] | None, *, powered_s: float, wall_ns: int
) -> Iterator[Sample]:
    """All samples but the histograms.

    snapshot  of Telemetry; empty before its first step
    tally     of SpoolView; None where the spool cannot be read
    powered_s, wall_ns  now; ages are told by the vehicle's own clocks
    """
    yield "spool_readable", {}, float(tally is not None)
    if snapshot:
        vehicle = None if tally is None else tally["vehicle"]
        yield from _of_process(snapshot, vehicle=vehicle or "", powered_s=powered_s)
        yield from _of_cameras(snapshot)
        yield from _of_selection(snapshot)
    if tally is not None:
        yield from _of_spool(tally)
        yield from _of_upload(tally, wall_ns=wall_ns)


def _of_process(snapshot: Mapping[str, Any], *, vehicle: str, powered_s: float) -> Iterator[Sample]:
    age_s = max(0.0, powered_s - snapshot["powered_s"])
    machine, engine, newest = snapshot["machine"], snapshot["engine"], snapshot["newest"]
    info = {"version": snapshot["version"], "bundle": snapshot["bundle"], "engine": engine["name"]}
    yield "info", {"vehicle_id": vehicle, **info}, 1.0
    yield "process_start_time_seconds", {}, snapshot["began_wall_ns"] / 1e9
    yield "process_cpu_seconds_total", {}, machine["cpu_s"]
    yield "process_resident_memory_bytes", {}, machine["rss_bytes"]
    yield "told_age_seconds", {}, age_s
    yield "temperature_celsius", {}, machine["temperature_c"]
    yield "engine_changes_total", {}, engine["changes"]
    yield "engine_fallback", {}, float(engine["name"] != engine["first"])
    yield "written_bytes_total", {}, snapshot["written"]["bytes"]
    yield "commits_total", {}, snapshot["written"]["commits"]
    yield "newest_judged_age_seconds", {}, None if newest is None else newest["age_s"] + age_s
    for name in ("min_free", "free"):
        yield f"disk_{name}_bytes", {}, snapshot["disk"][f"{name}_bytes"]
    yield "spool_bytes", {}, snapshot["disk"]["used_bytes"]
    yield "spool_max_bytes", {}, snapshot["disk"]["max_bytes"]


def _of_cameras(snapshot: Mapping[str, Any]) -> Iterator[Sample]:
    for camera, state in snapshot["cameras"].items():
        labels = {"camera": camera}
        yield "camera_shots_total", labels, state.get("offered")
        yield "camera_waiting_frames", labels, state.get("waiting")
        yield "camera_silent_seconds", labels, state.get("silent_s")
        for reason, n in state["lost"].items():
            yield "camera_lost_total", {**labels, "reason": reason}, n
    rate = snapshot["rate"]
    if rate is not None:
        yield "rate_hertz", {}, rate["in_force_hz"]
        yield "rate_asked_hertz", {}, rate["asked_hz"]
        if rate["cause"] is not None:
            yield "rate_held_down", {"cause": rate["cause"]}, 1.0


def _of_selection(snapshot: Mapping[str, Any]) -> Iterator[Sample]:
    yield "radius_chord", {}, snapshot["certificate"]["radius"]
    yield "radius_lower_bound_chord", {}, snapshot["certificate"]["lower_bound"]
    yield "round", {}, snapshot["round"]
    yield "retained_units", {}, snapshot["retained_units"]
    for cap in snapshot["budget"]:
        labels = {"unit": cap["unit"], "period": cap["period"] or "all"}
        yield "budget_limit", labels, cap["limit"]
        yield "budget_spent", labels, cap["spent"]
        yield "budget_refill_seconds", labels, cap["refills_in_s"]


def _of_spool(tally: Mapping[str, Any]) -> Iterator[Sample]:
    counted = by_state(tally["counters"])
    yield "frames_seen_total", {}, counted["seen"]
    for state in ("not_new", "retained"):
        yield "frames_total", {"state": state}, counted[state]
    for state in ("lost", "gated"):
        yield "frames_total", {"state": state}, sum(counted[state].values())
        for reason, n in counted[state].items():
            yield f"{state}_total", {"reason": reason}, n
    yield "evicted_total", {}, counted["evicted"]
    for state, n in tally["frames"].items():
        yield "spool_frames", {"state": state}, n


def _of_upload(tally: Mapping[str, Any], *, wall_ns: int) -> Iterator[Sample]:
    upload, link = tally["upload"], tally["upload"]["link"]
    none_waits = not (upload["waiting"] or upload["set_aside"])
    yield "uploader_up", {}, float(tally["uploader"])
    yield "uploaded_frames_total", {}, sum(upload["verified"].values())
    yield "uploaded_bytes_total", {}, tally["uploaded_bytes"]
    yield "upload_waiting_units", {}, upload["waiting"]
    yield "upload_waiting_bytes", {}, upload["waiting_bytes"]
    yield "upload_oldest_age_seconds", {}, 0.0 if none_waits else age_s(upload["oldest_stored_ns"], wall_ns)
    for reason, n in tally["set_aside"].items():
        yield "upload_set_aside_units", {"reason": reason}, n
    if link is not None:
        yield "upload_failures_in_a_row", {}, link["failures"]
        for state in LINK_STATES:
            yield "upload_link", {"state": state}, float(link["state"] == state)
        for reason, n in link.get("failed", {}).items():
            yield "upload_failures_total", {"reason": reason}, n


def text(samples: Iterator[Sample], stages: Mapping[str, Any], bounds_s: tuple[float, ...]) -> str:
    """The samples in Prometheus' text format, with the histograms of `stages` (of `Histogram.as_dict`).

    >>> print(text(iter([("lost_total", {"reason": 'a "b"'}, 3)]), {}, ()), end="")
    # HELP geal_edge_lost_total frames that no decision saw, by why
    # TYPE geal_edge_lost_total counter
    geal_edge_lost_total{reason="a \\"b\\""} 3
    """
    lines: dict[str, list[str]] = {metric.name: [] for metric in METRICS}
    for name, labels, value in samples:
        if value is not None:
            lines[name].append(_line(name, labels, value))
    for stage, found in stages.items():
        lines["stage_seconds"] += _histogram(stage, found, bounds_s)
    said: list[str] = []
    for metric in METRICS:
        if lines[metric.name]:
            said += [f"# HELP {metric.full_name} {metric.help}", f"# TYPE {metric.full_name} {metric.kind}"]
            said += lines[metric.name]
    return "\n".join([*said, ""])


def _histogram(stage: str, found: Mapping[str, Any], bounds_s: tuple[float, ...]) -> Iterator[str]:
    labels = {"stage": stage}
    bounds = [*(str(bound) for bound in bounds_s), "+Inf"]
    for bound, count in zip(bounds, accumulate(found["buckets"]), strict=True):
        yield _line("stage_seconds_bucket", {**labels, "le": bound}, count)
    yield _line("stage_seconds_sum", labels, found["sum_s"])
    yield _line("stage_seconds_count", labels, found["count"])


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    said = ",".join(f'{label}="{_escaped(of)}"' for label, of in labels.items())
    plain = value if isinstance(value, int) else float(value)  # NumPy's write themselves otherwise
    return f"geal_edge_{name}{f'{{{said}}}' if said else ''} {plain!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def table() -> Iterator[str]:
    """The lines of the table in docs/metrics.md."""
    yield "| metric | labels | counted by | meaning |"
    yield "| --- | --- | --- | --- |"
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        kind = "" if metric.kind == "gauge" else f" ({metric.kind})"
        yield f"| `{metric.full_name}`{kind} | {labels} | {metric.source} | {metric.help} |"
    yield ""
