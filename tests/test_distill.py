import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geal_edge.runtime.distill import distill


def attention_vectors(seed: int, count: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(196, 0.3), size=count)


def kept(attention, ratio, rule="reach"):
    return distill(np.zeros((len(attention), 4)), attention, attention_ratio=ratio, ratio_rule=rule).patches.tolist()


def test_reach_keeps_the_shortest_prefix_whose_mass_reaches_the_ratio():
    for attention in attention_vectors(0):
        patches = kept(attention, 0.5)
        mass = attention[patches].sum()
        assert mass >= 0.5
        assert mass - attention[patches].min() < 0.5


def test_the_papers_rule_keeps_exactly_one_token_fewer():
    # ALGORITHM facts: code minus paper = +1 in 2000 of 2000 Dirichlet(0.3) vectors of 196 tokens.
    for attention in attention_vectors(1):
        longer, shorter = kept(attention, 0.5), kept(attention, 0.5, "paper")
        assert len(longer) == len(shorter) + 1
        assert set(shorter) < set(longer)


def test_reach_agrees_with_the_authors_ascending_form():
    # Their form: sort ascending, cumulate, keep where the sum exceeds 1 - tau.
    for attention in attention_vectors(2, 100):
        order = np.argsort(attention)
        theirs = sorted(order[np.cumsum(attention[order]) > 0.5].tolist())
        assert kept(attention, 0.5) == theirs


@given(st.integers(0, 10_000), st.floats(0.01, 1.0), st.sampled_from(["reach", "paper"]))
def test_the_most_attended_token_always_stays_and_patches_are_in_order(seed, ratio, rule):
    attention = np.random.default_rng(seed).dirichlet(np.full(12, 0.1)) + 1e-9
    patches = kept(attention, ratio, rule)
    assert int(attention.argmax()) in patches
    assert patches == sorted(set(patches))


def test_one_token_with_everything_is_kept_by_both_rules():
    attention = np.eye(5)[2]
    assert kept(attention, 0.5) == kept(attention, 0.5, "paper") == [2]


def test_equal_attention_prefers_the_lower_patch():
    assert kept(np.full(4, 0.25), 0.5) == [0, 1]


def test_a_ratio_of_one_keeps_every_token_that_has_attention():
    assert kept(np.array([0.5, 0.0, 0.25, 0.25]), 1.0) == [0, 2, 3]


def test_tokens_attention_and_patches_stay_aligned():
    tokens = np.arange(12.0).reshape(4, 3)
    distilled = distill(tokens, np.array([0.1, 0.5, 0.1, 0.3]), attention_ratio=0.7)
    assert distilled.tokens.tolist() == tokens[[1, 3]].tolist()
    assert distilled.attention.tolist() == [0.5, 0.3]
    assert distilled.patch_count == 4
