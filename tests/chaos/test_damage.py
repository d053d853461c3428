"""Torn, cut short, bit-flipped, foreign and absent files, more than two thousand of them."""

from collections import Counter

from tests.test_damage import found
from tests.test_powerloss import memory_disk  # noqa: F401

TIMES = {"frame": 10, "other": 2, "spool.db": 30, "spool.db-wal": 30, "spool.db-shm": 2}


def test_of_thousands_of_damaged_files_each_is_named_or_makes_no_difference(memory_disk, tally):  # noqa: F811
    findings = found(memory_disk, times=TIMES, seed=1)
    # A value in a page of the database that its own structure says nothing of: SQLite has no checksums of pages.
    silent = [finding for finding in findings if finding.outcome == "unseen" and finding.file == "spool.db"]
    tally["damaged files"] += len(findings)
    tally["of them a silent value in the database"] += len(silent)
    assert Counter(finding.way for finding in silent).keys() <= {"one_bit", "noise_for_a_sector", "two_sectors_swapped"}
    assert len(silent) < len(findings) / 100
    assert [finding for finding in findings if finding.fault and finding not in silent] == []
