"""What reading the far side costs, for the first time and again.

    python -m benchmarks.farside [--sidecars 100000] [--vehicles 20] [--repeats 3] [--json]

A folder of frames of one byte with sidecars of the usual size stands for the far side, so that it is our own work that is
measured and not a link: listing, reading, checking every field, adding up. `first` begins with an empty cache, `again` with a
whole one; both include the opening of the cache and the machine form of `status`.
"""

import argparse
import json
import tempfile
import time
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

from benchmarks.common import show, spread
from geal_edge.runtime.farside.cache import open_cache
from geal_edge.runtime.farside.reading import read_fleet
from geal_edge.runtime.farside.standing import standing
from geal_edge.runtime.sidecar import SCHEMA
from geal_edge.runtime.state import State
from geal_edge.runtime.upload.folder import FolderStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidecars", type=int, default=100_000)
    parser.add_argument("--vehicles", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        far = Path(scratch) / "far"
        size = write_far_side(far, options.sidecars, options.vehicles)
        taken: dict[str, list[float]] = {"first, s": [], "again, s": []}
        for repeat in range(options.repeats):
            state = State(folder=Path(scratch) / f"state-{repeat}")
            for values in taken.values():
                values.append(look(far, state, options.sidecars))
    facts = {"sidecars": options.sidecars, "vehicles": options.vehicles, "bytes_of_sidecars": size}
    show("reading the far side", {name: spread(values) for name, values in taken.items()}, facts, as_json=options.json)


def write_far_side(far: Path, sidecars: int, vehicles: int) -> int:
    """Bytes of all sidecars."""
    total = 0
    for number in range(sidecars):
        folder = far / f"car-{number % vehicles}" / f"live-{number % 7:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        digest = sha256(b"%d" % number).hexdigest()
        facts = {
            "schema": SCHEMA, "vehicle": folder.parent.name, "trip": folder.name, "round": 1 + number // 4000,
            "order": 1 + number // vehicles, "unit": f"front@{number}", "id": f"front@{number}", "sha256": digest, "bytes": 1,
            "width": 1920, "height": 1080, "key": f"{folder.relative_to(far)}/{digest}.jpg", "context": [], "source": "front",
            "frame_index": number, "capture_time_ns": (1_780_000_000 + 30 * number) * 10**9,
            "stored_ns": (1_780_000_000 + 30 * number) * 10**9, "distance": 0.5 + number % 100 / 200, "novelty": 0.8,
            "radius": 0.5, "witness": {"patches": list(range(60, 72)), "grid": [14, 14]}, "tags": ["rain"],
            "metadata": {"speed_kmh": 31.5, "latitude": 52.5, "longitude": 13.4}, "producer": "geal-edge 0.1.0",
            "bundle": f"sha256:{'0' * 64}", "feature_space": "fs-0000000000000000", "preset": "geal", "untrained": False,
        }  # fmt: skip
        data = json.dumps(facts, indent=1).encode()
        total += len(data)
        (folder / f"{digest}.jpg").write_bytes(b"x")
        (folder / f"{digest}.json").write_bytes(data)
    return total


def look(far: Path, state: State, sidecars: int) -> float:
    began = time.perf_counter()
    with open_cache(state, str(far)) as cache:
        fleet = read_fleet(FolderStore(far), url=str(far), cache=cache)
    data = standing(fleet, datetime.now(timezone.utc))
    seconds = time.perf_counter() - began
    if sum(vehicle["frames"] for vehicle in data["vehicles"]) != sidecars:
        raise SystemExit("the benchmark counted wrong")
    return seconds


if __name__ == "__main__":
    main()
