"""A vehicle's cameras as processes of their own, which know nothing of who looks: `python -m tests.vehicle KIND PLACE PER_S`.

KIND is `folder`, `socket` or `shm`, PLACE what stands behind `watch:`, `unix:` or `shm:`. Now and then a picture is cut off or
dark, the vehicle stands still, a sender says nonsense, or a camera starts anew. Each ends on SIGTERM, and says on stdout how many
frames it has offered.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from types import FrameType

import numpy as np

from geal_edge.runtime.frame import usable
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.live.shm import FOLDER
from geal_edge.runtime.live.sock import FILE, HEADER, MAGIC, TRIP_OVER
from geal_edge.runtime.sources.drawn import DrawnDrive
from tests.test_shm import Sender

TRIP, RESTART, NONSENSE = 60, 400, 700
"""Frames of the socket's camera from one trip to the next; of each camera until it starts anew; and until it sends nonsense."""
FILES = 200
"""So many lie in the folder at most."""
stopped = Event()


def frames(per_s: float, seed: int) -> Iterator[tuple[int, bytes, bytes]]:
    """number, file and metadata of each frame, at its time, until it is told to stop."""
    chance = np.random.default_rng(seed)
    drive = [usable(frame).image[::6, ::6] for frame in DrawnDrive(seed, 200).frames()]
    number = 0
    while not stopped.wait(1 / per_s):
        number += 1
        image = drive[number % len(drive)]
        if number % 10 == 0:  # something that nobody has seen
            image = np.roll(image[:, ::-1, chance.permutation(3)], chance.integers(0, 200), axis=1)
        data = encode(image if number % 61 else np.zeros_like(image), "jpg")
        speed_kmh = 0 if number % 200 < 20 else number % 90
        said = b"{" if number % 173 == 0 else json.dumps({"speed_kmh": speed_kmh}).encode()
        yield number, data[: 100 + number % 400] if number % 89 == 0 else data, said


def message(data: bytes, said: bytes) -> bytes:
    return HEADER.pack(MAGIC, FILE, 0, len(data), 0, 0, 0, len(said), b"") + data + said


def to_folder(place: str, per_s: float) -> int:
    folder, sent = Path(place), 0
    for sent, data, said in frames(per_s, 1):
        (folder / f"{sent:08d}.json").write_bytes(said)
        (folder / f"{sent:08d}.jpg").write_bytes(data)
        for ending in ("jpg", "json"):
            (folder / f"{sent - FILES:08d}.{ending}").unlink(missing_ok=True)
    return sent


def to_socket(place: str, per_s: float) -> int:
    sender: socket.socket | None = None
    sent = 0
    for number, data, said in frames(per_s, 2):
        if sender is None or number % RESTART == 0:
            sender = socket.socket(socket.AF_UNIX)
            sender.settimeout(5.0)
        try:
            with suppress(OSError):
                sender.connect(place)  # it may be already
            if number % NONSENSE == 0:
                sender.sendall(b"nonsense" * 10)
            else:
                sender.sendall(message(data, said))
                sent += 1
            if number % TRIP == 0:
                sender.sendall(HEADER.pack(MAGIC, TRIP_OVER, 0, 0, 0, 0, 0, 0, b""))
        except OSError:  # nobody listens, or not any more
            sender.close()
            sender = None
    return sent


def to_memory(place: str, per_s: float) -> int:
    path, sender, sent = FOLDER / place[1:], None, 0
    for sent, data, said in frames(per_s, 3):
        if sender is None or sent % RESTART == 0:
            sender = Sender(path, slots=4, slot_bytes=60_000)
        sender.send(message(data, said), half=sent % NONSENSE == 0)
    path.unlink(missing_ok=True)
    return sent


def stop(_signum: int, _frame: FrameType | None) -> None:
    stopped.set()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    os.nice(1)
    print({"folder": to_folder, "socket": to_socket, "shm": to_memory}[sys.argv[1]](sys.argv[2], float(sys.argv[3])))
