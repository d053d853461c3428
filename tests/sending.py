"""An uploader as a process that is killed: `python -m tests.sending SPOOL URL SEED` sends all there is. Its clock jumps over what
it should wait, so that only the work takes time."""

import sys
from pathlib import Path

import numpy as np

from geal_edge.config import UploadConfig
from geal_edge.runtime.outbox import Outbox, release_recorded
from geal_edge.runtime.upload.store import open_store
from geal_edge.runtime.upload.uploader import Step, Uploader
from tests.fakes import Clock


def send_all(spool: Path, url: str, seed: int = 0) -> Uploader:
    """Until nothing is left."""
    clock = Clock()
    config = UploadConfig(to=url, vehicle="car-1", prefix="fleet", metered="no")
    with Outbox(spool) as outbox:
        release_recorded(spool)
        uploader = Uploader(
            outbox, open_store(url), config, vehicle="car-1", rng=np.random.default_rng(seed), monotonic=clock
        )
        while uploader.step() is not Step.IDLE:
            clock.advance(uploader.wait_s)
    return uploader


if __name__ == "__main__":
    send_all(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
