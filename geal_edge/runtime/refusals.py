"""How new the frames were that were not taken: all are counted, by the share of the radius in force that their novelty came to.

Counters of the spool: exact over any number of days, in a few bytes, where records of single frames are only those of the newest
(verdicts.py).
"""

import sqlite3

BINS = 20
"""Of equal width; the last one ends at the radius."""


def counter_of(novelty: float | None, radius: float | None) -> str:
    """The counter of a frame that was not new: chords, as its decision has them. Without a radius, or with nothing to be compared
    with, there is no share.

    >>> counter_of(0.0, 0.5), counter_of(0.26, 0.5), counter_of(0.5, 0.5), counter_of(0.5, None)
    ('refused:00', 'refused:10', 'refused:19', 'refused:none')
    """
    if novelty is None or not radius:
        return "refused:none"
    return f"refused:{min(BINS - 1, int(BINS * novelty / radius)):02d}"


def read_refusals(db: sqlite3.Connection) -> tuple[int, ...]:
    """Frames in each of the BINS, from what had been seen already up to what lay just within the radius."""
    counters = dict(db.execute("SELECT name, n FROM counters WHERE name LIKE 'refused:%'"))
    return tuple(int(counters.get(f"refused:{share:02d}", 0)) for share in range(BINS))
