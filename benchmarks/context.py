"""What context costs: a camera's thread, memory, and the pipeline when a frame is retained.

    python -m benchmarks.context [--size 1920x1080] [--pictures 20] [--rounds 7] [--folder FOLDER] [--json]

`pixels`: putting a raw picture into the ring, which makes it a JPEG; `file`: the same where the camera gives JPEGs. `store`:
writing so many pictures beside a retained frame, each synced, one sync of the folder and one transaction; `frame`: storing the
frame itself, for comparison. Milliseconds per picture, interleaved, and the bytes of a picture.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import show, spread
from geal_edge.runtime.clusters import KnowledgeClusters, unit_rows
from geal_edge.runtime.frame import usable
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.ladder import Ladder
from geal_edge.runtime.live.ring import Glimpse, Ring
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolsettings import SpoolSettings
from geal_edge.runtime.units import JudgedFrame, JudgedUnit

SETTINGS = SpoolSettings(
    bundle="sha256:0", feature_space="fs-0", preset="geal", grid=(14, 14), untrained=True, budget=500
)


def append(spool: Spool, ladder: Ladder, unit: JudgedUnit) -> None:
    decision = ladder.score(unit.clusters)
    spool.append(unit, decision)
    ladder.learn(decision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    import cv2

    width, height = map(int, words.size.split("x"))
    source = open_source(f"drawn:1:{words.rounds}")
    frames = [usable(item) for item in source.frames()]
    image = cv2.resize(frames[0].image, (width, height), interpolation=cv2.INTER_CUBIC).astype("uint8")
    data = encode(image, "jpg")
    ring, rng = Ring(hold_s=10.0), np.random.default_rng(0)
    ms: dict[str, list[float]] = {"pixels": [], "file": [], "frame": [], "store": []}

    def timed(name: str, work: Callable[[], object], count: int = 1) -> None:
        began = time.perf_counter()
        work()
        ms[name].append(1000 * (time.perf_counter() - began) / count)

    with (
        tempfile.TemporaryDirectory(dir=words.folder) as folder,
        Spool(Path(folder) / "spool", SETTINGS) as spool,
    ):
        spool.begin_source(source)
        ladder = spool.ladder()
        for frame, rows in zip(frames, rng.normal(size=(words.rounds, 25, 384)), strict=True):
            timed("pixels", lambda: ring.add(0, image, arrived_s=0.0))
            timed("file", lambda: ring.add(0, data, arrived_s=0.0))
            unit = ladder.next_unit
            clusters = KnowledgeClusters(rows=unit_rows(rows), patch_cluster=np.zeros(196, np.int16))
            own = JudgedFrame(frame=replace(frame, encoded=data, encoding="jpg"), clusters=clusters)
            timed("frame", partial(append, spool, ladder, JudgedUnit(frames=(own,))))
            beside = [Glimpse(capture_time_ns=n, data=data, ending="jpg") for n in range(words.pictures)]
            timed("store", partial(spool.add_context, unit, 0, beside), words.pictures)
    facts = {"size": words.size, "pictures": words.pictures, "bytes": len(data)}
    rows = {name: spread(values) for name, values in ms.items()}
    show("context, milliseconds a picture", rows, facts, as_json=words.json)


if __name__ == "__main__":
    main()
