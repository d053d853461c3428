"""One account of all that `make chaos` tried, at its end."""

from collections import Counter

import pytest

TALLY = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Counter()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter[str]:
    """What was tried so far, by its name in the summary."""
    return request.config.stash[TALLY]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counted = ", ".join(f"{n} {name}" for name, n in config.stash[TALLY].items())
    terminalreporter.write_line(f"chaos: {counted}")
