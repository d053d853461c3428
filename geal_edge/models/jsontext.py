"""JSON that somebody else may have written."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """What stands there. Raises ValueError for all that is no JSON, that which is nested too deeply to be read included.

    >>> parse_json(b"[" * 100_000)
    Traceback (most recent call last):
    ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
