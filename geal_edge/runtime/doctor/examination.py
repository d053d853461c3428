"""Is this machine ready for geal-edge? (`geal-edge doctor`)

A check is a small function: System in, Findings out. Each stands alone, so that one that fails is a line of the report like any
other. Nothing is believed that can be tried: an engine is asked for a product, a disk to make files safe.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import geal_edge
from geal_edge.runtime.doctor import clock, hardware, software, storage
from geal_edge.runtime.doctor.finding import Check, Finding, System, Verdict

SCHEMA = "geal-edge/doctor/1"

CHECKS: dict[str, Check] = {
    "python": software.python,
    "packages": software.packages,
    "opencv": software.opencv,
    "cpu": hardware.cpu,
    "memory": hardware.memory,
    "nvidia driver": hardware.driver,
    "jetpack": hardware.jetpack,
    "power mode": hardware.power,
    "onnxruntime": software.wheels,
    "engines": software.engines,
    "tensorrt": software.tensorrt,
    "cameras": hardware.cameras,
    "clock": clock.clock,
    "disk": storage.disk,
    "spool": storage.spool_use,
    "folders": storage.folders,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of its findings: broken, degraded or good."""
        verdicts = {finding.verdict for finding in self.findings}
        return "broken" if "broken" in verdicts else "degraded" if "degraded" in verdicts else "good"

    def as_json(self) -> dict[str, Any]:
        """The machine form of `doctor --json` (docs/formats.md)."""
        return {
            "schema": SCHEMA,
            "producer": f"geal-edge {geal_edge.__version__}",
            "verdict": self.verdict,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def examine(system: System, checks: Mapping[str, Check] = CHECKS) -> Report:
    """Look at everything. Takes some seconds, most of them to load engines; changes nothing that stays.

    >>> def sound(system):
    ...     yield Finding(name="a", verdict="good", seen="as it should be")
    >>> def faulty(system):
    ...     raise ValueError("a file of a form that nobody has seen")
    >>> system = System(environ={}, wall_ns=lambda: 0)
    >>> [(f.name, f.verdict) for f in examine(system, {"b": faulty, "a": sound}).findings]
    [('b', 'broken'), ('a', 'good')]
    """
    return Report(
        findings=tuple(finding for name, check in checks.items() for finding in _findings(name, check, system))
    )


def _findings(name: str, check: Check, system: System) -> Iterator[Finding]:
    try:
        yield from check(system)
    except Exception as error:  # noqa: BLE001  # a machine is strange in ways that no list holds; the others must be seen
        yield Finding(
            name=name,
            verdict="broken",
            seen=f"the check itself failed: {error!r}",
            advice="Nothing is known of this part. Report it, with the output of `geal-edge doctor --json`.",
        )
