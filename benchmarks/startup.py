"""How long a service takes from its start to READY, and how much of that is the model.

    python -m benchmarks.startup --bundle BUNDLE [--rounds 7] [--json]

The service is a process of its own that a supervisor starts, with a watched folder for its camera and a spool that is there
already. Told in turns with it, so that a busy machine slows both: a Python that imports numpy and typer and ends, which no start
can be faster than. `cpu_s` is the processor time of the process, which a busy machine does not change much.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import show, spread

SERVICE = """
import sys, time
from geal_edge.cli.start import main
from geal_edge.runtime.watched import WatchedEncoder

enter = WatchedEncoder.__enter__

def timed(self):
    wall, cpu = time.perf_counter(), time.process_time()
    entered = enter(self)
    print("model", time.perf_counter() - wall, time.process_time() - cpu, flush=True)
    return entered

WatchedEncoder.__enter__ = timed
main()
"""
FLOOR = "import numpy, typer, time; print('floor', 0, time.process_time(), flush=True)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        measured.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder), options.bundle)
        started(config)  # the spool is made, files are in the page cache
        for _ in range(options.rounds):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", FLOOR], check=True, capture_output=True, text=True)
            floor_s, floor_cpu_s = time.perf_counter() - began, float(done.stdout.split()[2])
            ready_s, ready_cpu_s, model_s, model_cpu_s = started(config)
            note("to READY", ready_s)
            note("of it the model", model_s)
            note("the rest", ready_s - model_s)
            note("the rest, cpu_s", ready_cpu_s - model_cpu_s)
            note("numpy and typer alone", floor_s)
            note("numpy and typer alone, cpu_s", floor_cpu_s)
            note("ratio of the rest to them", (ready_s - model_s) / floor_s)
    rows = {name: spread(values) for name, values in measured.items()}
    show("start-up of a service, in seconds", rows, {"rounds": options.rounds}, as_json=options.json)


def configuration(folder: Path, bundle: Path) -> Path:
    (folder / "in").mkdir()
    path = folder / "geal-edge.toml"
    path.write_text(
        f'[source]\nuris = ["watch:{folder}/in"]\n[bundle]\npath = "{bundle.resolve()}"\nallow_untrained = true\n'
        f'[budget]\nframes_per_day = 50\n[spool]\npath = "{folder}/spool"\n'
    )
    return path


def started(config: Path) -> tuple[float, float, float, float]:
    """Seconds from the start of the process to READY, its processor time until then, and the model's share of both."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("")
        ear.settimeout(120.0)
        environ = {**os.environ, "NOTIFY_SOCKET": "@" + ear.getsockname()[1:].decode()}
        words = [sys.executable, "-c", SERVICE, "run", "--config", str(config), "-q"]
        began = time.perf_counter()
        service = subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while b"READY=1" not in ear.recv(4096):
            pass
        ready_s = time.perf_counter() - began
        fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
        ready_cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        service.terminate()
        said, _ = service.communicate()
    _, model_s, model_cpu_s = next(line for line in said.splitlines() if line.startswith("model ")).split()
    return ready_s, ready_cpu_s, float(model_s), float(model_cpu_s)


if __name__ == "__main__":
    main()
