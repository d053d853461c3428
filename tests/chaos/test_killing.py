"""At least 200 kills of the real command under load: four spools at a time, each the others' load."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.killing import VARIANTS, kill_rounds

SPOOLS = ("trips", "paced", "immediate", "trips")
KILLS = 52  # of each


def test_killed_two_hundred_times_under_load_nothing_promised_is_lost_and_nothing_is_there_twice(
    tiny_bundle, tmp_path, tally
):
    with ThreadPoolExecutor(len(SPOOLS)) as pool:
        running = [
            pool.submit(kill_rounds, tmp_path / f"{i}", tiny_bundle.path, VARIANTS[name], kills=KILLS, seed=i)
            for i, name in enumerate(SPOOLS)
        ]
        accounts = [each.result() for each in running]
    assert [account.unsound for account in accounts] == [[]] * len(SPOOLS)
    counts = sum((account.counts for account in accounts), Counter[str]())
    assert counts["kills"] >= 200
    assert min(counts["sent"], counts["evicted"], counts["retained"]) > 0
    tally["kills of the real command"] += counts["kills"]
    tally["lost"] += sum(len(account.lost) for account in accounts)
    tally["doubled"] += sum(len(account.doubled) for account in accounts)
    print(f"\nkilled under load: {dict(counts)}")
    assert [account.lost + account.doubled for account in accounts] == [[]] * len(SPOOLS)
