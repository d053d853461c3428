"""Other processes on the vehicle, for tests of live sources: real ones, which pace themselves."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

FOLDER_WRITER = """
import sys, time
from pathlib import Path
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.sources.drawn import DrawnDrive
folder, frames, per_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
for frame in DrawnDrive(1, frames).frames():
    data = encode(frame.image, "jpg")
    half = folder / f"{frame.frame_index:06d}.jpg"
    with half.open("wb") as file:  # in two halves: nobody may read it before it is closed
        file.write(data[:1000])
        file.flush()
        time.sleep(0.5 / per_s)
        file.write(data[1000:])
    time.sleep(0.5 / per_s)
"""
"""Writes a drawn drive into a folder: arguments are the folder, the number of frames and how many a second."""


@contextmanager
def process(program: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """A Python process that runs `program`; killed at the end if it still lives."""
    started = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], text=True)
    try:
        yield started
    finally:
        started.kill()
        started.wait()
