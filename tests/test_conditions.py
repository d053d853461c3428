import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geal_edge.errors import UsageError
from geal_edge.runtime.conditions import MAX_DEPTH, Condition, great_circle_m

NOW = {
    "speed_kmh": 31.5,
    "gear": "R",
    "weather": "rain",
    "parked": False,
    "lat": 48.137,
    "lon": 11.575,
    "ego": {"lane": 2},
    "detections": [{"class": "car", "score": 0.9}, {"class": "pedestrian", "score": 0.3}],
    "tags": ["a", "b"],
    "empty": [],
}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("speed_kmh > 5", True),
        ("speed_kmh <= -5.0", False),
        ('gear != "R"', False),
        ("gear in ['P', 'R']", True),
        ("not parked and ego.lane == 2", True),
        ("parked or speed_kmh >= 3.15e1", True),
        ("not (parked or speed_kmh >= 31.5)", False),
        ("absent > 5", None),
        ("not absent > 5", None),
        ("absent > 5 or gear == 'R'", True),
        ("absent > 5 and gear == 'R'", None),
        ("absent > 5 and gear == 'D'", False),
        ("gear > 5", None),
        ("gear == 5", False),
        ("parked == 0", False),
        ("parked == false", True),
        ("speed_kmh", None),
        ("ego.lane.width == 1", None),
        ('any(detections.class == "pedestrian")', True),
        ("any(detections.score > 0.95)", False),
        ("any(detections.width > 1)", None),
        ("any(empty == 1)", False),
        ("any(absent == 1)", None),
        ('any(tags == "b")', True),
        ("any(tags in ['c'])", False),
        ("max(detections.score) < 0.4", False),
        ("max(detections.class) < 0.4", None),
        ("max(empty) < 0.4", None),
        ("within(48.2, 11.575, 8km)", True),
        ("within(48.2, 11.575, 6900 m)", False),
        ("detections == 1", False),
    ],
)
def test_what_a_condition_answers(text, answer):
    assert Condition(text).ask(NOW) is answer


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("", 1, "a key of the metadata was expected, and it ends"),
        ("speed >", 8, "a number, a text in quotes, true or false was expected, and it ends"),
        ("speed > fast", 9, "there is fast"),
        ('speed > "5"', 9, "a number was expected behind >"),
        ("speed = 5", 7, "'=' is no part of a condition"),
        ("a == 1 b == 2", 8, "`and`, `or` or the end was expected, and there is b"),
        ("(a == 1", 8, "`)` was expected"),
        ("a == 'x", 6, "a text ends with the quote"),
        ("any(a)", 6, "one of == != < <= > >= in"),
        ("within(91, 0, 5km)", 8, "a latitude in degrees"),
        ("within(1, 0, 5)", 15, "a distance, as 5km or 200m"),
        ("a in []", 7, "a number, a text in quotes"),
        ("__import__('os')", 11, "`and`, `or` or the end"),
        ("a == 1e999", 6, "a number"),
        ("and == 1", 1, "a key of the metadata"),
        ("(" * (MAX_DEPTH + 1) + "a", MAX_DEPTH + 1, "within each other"),
        ("a" * 1001, 1001, "at most 1000 characters"),
    ],
)
def test_what_is_no_condition_is_told_with_the_place(text, at, words):
    with pytest.raises(UsageError) as told:
        Condition(text)
    assert f"character {at}: " in str(told.value)
    assert words in str(told.value)


WORDS = st.sampled_from(
    [
        *'()[],.<>"',
        "==",
        "!=",
        "in",
        "and",
        "or",
        "not",
        "any",
        "max",
        "within",
        "a",
        "b.c",
        "lat",
        "1",
        "5km",
        "'x'",
        "true",
    ]
)
TEXTS = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
METADATA = st.dictionaries(st.sampled_from(["a", "b", "lat", "lon"]), VALUES)
CONDITIONS = st.sampled_from(
    [
        "a > 1",
        "a == 'x'",
        "b.c in [1, true]",
        "any(a == 1)",
        "max(b.c) < 2",
        "within(0, 0, 9000km)",
        "a",
        "any(b.c > 0)",
    ]
)


@settings(max_examples=100, deadline=None)
@given(TEXTS, METADATA)
def test_any_text_is_a_condition_or_told_as_none_and_answers_for_any_metadata(text, metadata):
    try:
        condition = Condition(text)
    except UsageError:
        return
    assert condition.ask(metadata) in (True, False, None)


@settings(max_examples=40, deadline=None)
@given(CONDITIONS, CONDITIONS, METADATA)
def test_de_morgans_law_holds_and_the_order_does_not_matter(one, other, metadata):
    def ask(text):
        return Condition(text).ask(json.loads(json.dumps(metadata)))

    assert ask(f"not ({one} and {other})") is ask(f"not {one} or not {other}")
    assert ask(f"{one} or {other}") is ask(f"{other} or {one}")
    assert ask(f"not not {one}") is ask(one)


def test_distances_are_those_of_the_great_circle():
    # Munich to Berlin is 504 km; a quarter of a meridian is 10,007.557 km on this sphere.
    assert great_circle_m(48.137, 11.575, 52.520, 13.405) == pytest.approx(504_000, rel=0.005)
    assert great_circle_m(0, 0, 90, 0) == pytest.approx(10_007_557, abs=1)
