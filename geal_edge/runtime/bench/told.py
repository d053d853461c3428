"""A measurement in words: a table, and as its last line what an integrator wants to know."""

import statistics
from collections.abc import Iterator, Sequence

from geal_edge.runtime.bench import Bench, Point
from geal_edge.runtime.live.source import RATE_HZ

UNTOLD = "not told by this system"


def lines(found: Bench) -> Iterator[str]:
    """The measurement, line by line."""
    width, height = found.bundle["size"]
    size = f" of {found.source['size'][0]}x{found.source['size'][1]}" if found.source["size"] else ""
    yield (
        f"{found.bundle['model']} {width}x{height}, {found.bundle['precision']}, on {found.machine['backend']} "
        f"({found.machine['engine']}; {found.machine['device']}; {found.machine['cpus']} CPUs)"
    )
    yield (
        f"{found.frames} frames{size} of {found.source['name']} behind a warm-up, budget {found.budget}; "
        f"load average before: {found.load:.1f}"
    )
    yield ""
    yield f"{'ms a frame':<12}{'p50':>9}{'p95':>9}{'p99':>9}{'CPU time':>11}"
    for name, stage in found.stages.items():
        yield f"  {name:<10}{stage.p50:>9.2f}{stage.p95:>9.2f}{stage.p99:>9.2f}{stage.cpu_ms:>11.2f}"
    yield ""
    yield "batch       " + "  ".join(f"{size}: {rate:.1f}/s" for size, rate in found.batches.items())
    share = [100 * ratio for ratio in found.pipeline_over_encoder]
    yield (
        f"pipeline    {statistics.median(found.pipeline_frames_per_s):.1f} frames/s, its encoder alone "
        f"{statistics.median(found.encoder_frames_per_s):.1f}: {statistics.median(share):.0f} % "
        f"({min(share):.0f} to {max(share):.0f} in {len(share)} turns)"
    )
    if found.sustained:
        yield f"sustained   {_sustained(found.sustained)}"
    energy = ", ".join(f"{name} {joules:.2f} J" for name, joules in sorted(found.energy_j.items()))
    yield f"energy      {energy + ' a frame' if energy else UNTOLD}"
    bytes_ = f"{found.bytes_ / 1e6:.1f} MB" if found.bytes_ is not None else f"bytes {UNTOLD}"
    yield (
        f"written     per 1,000 frames of a cold start: {bytes_}, {found.syncs:.0f} syncs, {found.commits:.0f} commits"
    )
    yield ""
    yield last_line(found)


def last_line(found: Bench) -> str:
    """What it takes at the rate at which a live source is looked at, or at all that the pipeline makes where that is less."""
    makes = statistics.median(found.pipeline_frames_per_s)
    rate, words = (RATE_HZ, "as of a live source") if makes >= RATE_HZ else (makes, "all that it makes")
    gpu = "no GPU" if found.gpu_ms is None else f"{found.gpu_ms:.1f} ms GPU per frame"
    memory = UNTOLD if found.peak_memory_mb is None else f"{found.peak_memory_mb:.0f} MB"
    return f"at {rate:.3g} frames a second, {words}: {found.cpu_ms * rate / 10:.0f} % of one core, {gpu}, {memory}"


def _sustained(points: Sequence[Point]) -> str:
    first, last = points[0], points[-1]
    rates = [point.frames_per_s for point in points]
    heat = ", ".join(
        f"{name} {first.temperatures[name]:.0f} to {last.temperatures[name]:.0f} °C"
        for name in sorted(first.temperatures.keys() & last.temperatures.keys())
    )
    clocks = ", ".join(
        f"{name} {first.clocks[name]:.0f} to {last.clocks[name]:.0f} MHz"
        for name in sorted(first.clocks.keys() & last.clocks.keys())
    )
    return (
        f"{last.at_s / 60:.1f} minutes: {rates[0]:.1f} frames/s at first, {rates[-1]:.1f} at last "
        f"({min(rates):.1f} to {max(rates):.1f}); temperature: {heat or UNTOLD}; clocks: {clocks or UNTOLD}"
    )
