"""The real command on a live source, killed under load; `make chaos` does it more than 200 times."""

from tests.killing import VARIANTS, broken, kill_rounds, twice

A = (1, "retained", None, (("live#front@1", "aa"),))
B = (1, "released", 1, (("live#front@2", "bb"),))


def test_a_live_source_killed_under_load_and_started_again_loses_nothing_that_was_promised(tiny_bundle, tmp_path):
    account = kill_rounds(tmp_path / "spool", tiny_bundle.path, VARIANTS["trips"], kills=3, seed=0)
    assert account.counts["kills"] == 3
    assert sum(account.counts[state] for state in ("sent", "released", "retained")) > 0
    assert (account.lost, account.doubled, account.unsound) == ([], [], [])


def test_what_is_lost_or_there_twice_is_seen():
    assert list(broken({1: A, 2: B}, {1: (1, "evicted", None, A[3]), 2: B})) == []
    assert list(broken({1: A, 2: B}, {2: B})) == [f"unit 1 (retained, {A[3]}) is gone"]
    assert "is number 2" in next(broken({2: B}, {2: (1, "released", 2, B[3])}))
    assert "and is" in next(broken({2: B}, {2: (1, "retained", None, B[3])}))
    assert list(twice({1: A, 2: B})) == []
    assert list(twice({1: A, 3: A, 2: B})) == ["live#front@1 is there 2 times"]
    assert "in the order [1, 1]" in next(twice({2: B, 3: (1, "released", 1, A[3])}))
