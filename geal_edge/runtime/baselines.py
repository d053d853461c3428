"""What selection is measured against. For now one: frames evenly spaced in time, which is hard to beat on mean cover."""


def uniform_in_time(count: int, budget: int) -> list[int]:
    """Indices of `budget` of `count` frames, evenly spaced: the middle frame of each of `budget` equal stretches.

    >>> uniform_in_time(10, 3)
    [1, 5, 8]
    >>> uniform_in_time(2, 5)
    [0, 1]
    """
    budget = min(count, budget)
    return [(2 * i + 1) * count // (2 * budget) for i in range(budget)]
