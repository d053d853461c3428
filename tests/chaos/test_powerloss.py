"""The power is cut before every system call of short drives; and every sync is taken out once, which must be seen."""

from collections import Counter

import pytest

from tests.powerloss.cuts import faults, record
from tests.powerloss.drives import DRIVES
from tests.test_powerloss import memory_disk, outcome, recorder  # noqa: F401


@pytest.mark.parametrize("name", DRIVES)
def test_no_cut_of_power_at_any_operation_loses_what_was_promised(name, recorder, memory_disk, tally):  # noqa: F811
    expected = outcome(name, memory_disk)
    recording = record(name, recorder, memory_disk / "run")
    counts: Counter[str] = Counter()
    assert list(faults(recording, memory_disk, expected, counts, every=1, torn=2)) == []
    tally["operations before which the power was cut"] += len(recording.operations)
    tally["states after a cut"] += counts.total()
    print(f"{name}: {len(recording.operations)} operations, {counts.total()} states after a cut: {dict(counts)}")


def test_every_sync_that_is_taken_out_is_missed(recorder, memory_disk, tally):  # noqa: F811
    expected = {name: outcome(name, memory_disk / name) for name in DRIVES if (memory_disk / name).mkdir() is None}
    sites = set()
    for name in DRIVES:
        sites |= set(record(name, recorder, memory_disk / f"sites of {name}").sites)
    unseen = []
    for site in [*sorted(sites), "synchronous=NORMAL", "synchronous=OFF"]:
        for name in DRIVES:
            recording = record(name, recorder, memory_disk / f"{name} without {site}", without=site)
            fault = next(faults(recording, memory_disk, expected[name], Counter(), every=1), None)
            if fault is not None:
                print(f"without {site}: seen in {name!r} at operation {fault.operation} ({fault.fate})")
                break
        else:
            unseen.append(site)
    tally["syncs taken out and missed"] += len(sites) + 2 - len(unseen)
    tally["syncs taken out unseen"] += len(unseen)
    assert unseen == []
