"""What every benchmark says: which machine, medians with their spread, JSON for machines."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geal_edge.runtime.compare.cover import spread as spread_of


def machine() -> dict[str, Any]:
    """The machine in words: processor, CPUs that this process may use, Python, NumPy."""
    import numpy as np

    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median with the 10th and 90th percentile."""
    return asdict(spread_of(values))


def show(title: str, rows: dict[str, dict[str, float]], facts: dict[str, Any], *, as_json: bool) -> None:
    """Print the result for people or machines."""
    if as_json:
        print(json.dumps({"benchmark": title, "machine": machine(), **facts, "results": rows}, indent=1))
        return
    print(title)
    print(", ".join(f"{name} {value}" for name, value in {**machine(), **facts}.items()))
    width = max(len(name) for name in rows)
    for name, values in rows.items():
        print(f"  {name:<{width}}  " + "  ".join(f"{key} {value:8.3f}" for key, value in values.items()))
