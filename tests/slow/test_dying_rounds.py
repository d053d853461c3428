"""Rounds whose process ends before every single disk operation."""

import pytest

from tests.test_rounds import immediate_rounds_die, paced_rounds_die


@pytest.mark.parametrize("die", [paced_rounds_die, immediate_rounds_die])
def test_rounds_that_died_at_any_operation_go_on(die, tmp_path, monkeypatch):
    die(tmp_path, monkeypatch, every=1)
