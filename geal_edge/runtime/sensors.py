"""What the system tells of heat, clocks and energy. What it does not tell is absent, never 0.

Thermal zones, cpufreq, RAPL and the INA3221 power monitor (the one that tegrastats reads) are files in /sys; NVIDIA's GPUs
answer through their driver's library (NVML). Nothing is started, nothing needs to be installed.
"""

import ctypes
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

NVML = "libnvidia-ml.so.1"
_NVML_GPU_TEMPERATURE = 0
_NVML_SM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at all sensors.

    at_s          when, in seconds of the clock of who looks
    temperatures  sensor -> degrees Celsius
    clocks        "cpu" (mean of its cores), "gpu" -> MHz
    joules        counter -> joules since it began; it may begin again, at `Sensors.wraps`
    watts         rail -> watts
    """

    at_s: float
    temperatures: dict[str, float]
    clocks: dict[str, float]
    joules: dict[str, float]
    watts: dict[str, float]


class Sensors:
    """root and nvml are for tests: another /, another library."""

    def __init__(self, root: Path = Path("/"), nvml: str = NVML) -> None:
        self._sys = root / "sys"
        self._gpu = _gpu(nvml)
        self.wraps = {_text(zone / "name"): joules for zone, joules in self._rapl("max_energy_range_uj")}

    def read(self, at_s: float) -> Reading:
        temperatures: dict[str, float | None] = {}
        for zone in sorted((self._sys / "class/thermal").glob("thermal_zone*")):
            kind = _text(zone / "type")  # several may be of one
            name = f"{kind} ({zone.name.removeprefix('thermal_zone')})" if kind in temperatures else kind
            temperatures[name] = _number(zone / "temp", 1e-3)
        cores = [
            mhz
            for each in (self._sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
            if (mhz := _number(each, 1e-3)) is not None
        ]
        gpu = self._gpu.read() if self._gpu else {}
        return Reading(
            at_s=at_s,
            temperatures=_told({**temperatures, "gpu (NVML)": gpu.get("temperature")}),
            clocks=_told({"cpu": sum(cores) / len(cores) if cores else None, "gpu": gpu.get("clock")}),
            joules=_told(
                {**{_text(zone / "name"): j for zone, j in self._rapl("energy_uj")}, "gpu": gpu.get("joules")}
            ),
            watts=_told(self._rails()),
        )

    def _rapl(self, name: str) -> list[tuple[Path, float]]:
        """(zone, joules) of each processor package; its parts are in it already."""
        zones = sorted((self._sys / "class/powercap").glob("intel-rapl:*"))
        numbers = ((zone, _number(zone / name, 1e-6)) for zone in zones if zone.name.count(":") == 1)
        return [(zone, joules) for zone, joules in numbers if joules is not None]

    def _rails(self) -> dict[str, float | None]:
        """The rails of an INA3221, of which a Jetson's VDD_IN is all that the board takes."""
        rails: dict[str, float | None] = {}
        for monitor in sorted((self._sys / "class/hwmon").glob("hwmon*")):
            if _text(monitor / "name") != "ina3221":
                continue
            for label in sorted(monitor.glob("in*_label")):
                number = label.name.removeprefix("in").removesuffix("_label")
                volts = _number(monitor / f"in{number}_input", 1e-3)
                amperes = _number(monitor / f"curr{number}_input", 1e-3)
                rails[_text(label)] = None if volts is None or amperes is None else volts * amperes
        return rails


def energy_j(readings: list[Reading], wraps: dict[str, float]) -> dict[str, float]:
    """Joules from the first reading to the last, by counter or rail; of a rail, what its watts amount to.

    >>> a = Reading(at_s=0.0, temperatures={}, clocks={}, joules={"package-0": 9.0}, watts={"VDD_IN": 4.0})
    >>> b = Reading(at_s=2.0, temperatures={}, clocks={}, joules={"package-0": 1.0}, watts={"VDD_IN": 6.0})
    >>> energy_j([a, b], {"package-0": 10.0})
    {'package-0': 2.0, 'VDD_IN': 10.0}
    """
    total: dict[str, float] = {}
    for before, after in pairwise(readings):
        for name in before.joules.keys() & after.joules.keys():
            used = after.joules[name] - before.joules[name]
            total[name] = total.get(name, 0.0) + (used if used >= 0.0 else used + wraps.get(name, -used))
        for name in before.watts.keys() & after.watts.keys():
            used = (after.at_s - before.at_s) * (before.watts[name] + after.watts[name]) / 2
            total[name] = total.get(name, 0.0) + used
    return total


class _Gpu:
    """The first GPU, as NVML knows it."""

    def __init__(self, nvml: ctypes.CDLL, device: ctypes.c_void_p) -> None:
        self._nvml = nvml
        self._device = device

    def read(self) -> dict[str, float | None]:
        return {
            "temperature": self._ask("nvmlDeviceGetTemperature", ctypes.c_uint, _NVML_GPU_TEMPERATURE),
            "clock": self._ask("nvmlDeviceGetClockInfo", ctypes.c_uint, _NVML_SM),
            "joules": self._ask("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong, scale=1e-3),
        }

    def _ask(self, function: str, kind: Any, *arguments: int, scale: float = 1.0) -> float | None:
        value = kind(0)
        refused = getattr(self._nvml, function)(self._device, *arguments, ctypes.byref(value))
        return None if refused else float(value.value) * scale


def _gpu(library: str) -> _Gpu | None:
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return None
    device = ctypes.c_void_p()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
        return None
    return _Gpu(nvml, device)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return path.parent.name


def _number(path: Path, scale: float) -> float | None:
    """None where it cannot be read: RAPL's counters are root's alone, a zone may be switched off."""
    try:
        return int(path.read_text()) * scale
    except (OSError, ValueError):
        return None


def _told(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def load_average() -> float:
    """How many processes wanted a CPU in the last minute: what else goes on decides what a measurement is worth."""
    return os.getloadavg()[0]
