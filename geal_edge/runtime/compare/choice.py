"""What a strategy chose of a pool: the value that measures, labels and pages start from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One order of one strategy.

    strategy  its name in the comparison
    seed      what it drew with; None where nothing is drawn
    order     indices into the pool in order of selection: its first b are the selection at budget b
    """

    strategy: str
    seed: int | None
    order: tuple[int, ...]
