"""The uploader comes in between two steps of `run`, and the other way round, at every pair of steps, or at each EVERY-th of them;
each also with a kill of both.
"""

import os

from tests.test_interleaving import interleave
from tests.test_powerloss import memory_disk  # noqa: F401


def test_wherever_one_comes_in_between_the_other_both_come_to_one_end(memory_disk, tally):  # noqa: F811
    counts = interleave(memory_disk, every=int(os.environ.get("EVERY", "1")))
    print(f"\n{dict(counts)}")
    tally["interleavings of two processes"] += counts["interleaved"] + counts["killed"]
