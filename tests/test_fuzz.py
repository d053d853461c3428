"""A short form of `make fuzz`: a few inputs of every target, always the same ones."""

import pytest

from tests.fuzzing import Tries

TRIES = 15


@pytest.fixture(scope="module")
def tries(tmp_path_factory) -> Tries:
    return Tries(tmp_path_factory.mktemp("fuzz"))


def test_whatever_comes_from_outside_is_read_or_refused_in_a_sentence(tries):
    for number, name in enumerate(tries.targets):
        tries.some(name, TRIES, number)
    assert tries.tried >= TRIES * len(tries.targets)
