"""Matrix products without a warning that some processors add to them.

OpenBLAS's kernels for AVX-512 also compute lanes that they throw away, of whatever lies in memory there, and leave the
processor's flag for an invalid operation behind (as in numpy's issue 24067): NumPy then warns of a product that is right. Numbers
that are not finite are refused before: encoder.py looks at what an engine answers, memoryfile.py and soundness.py at files.
"""

from typing import Any, TypeVar

import numpy as np

A = TypeVar("A", bound=np.ndarray[Any, np.dtype[Any]])


def product(a: A, b: A) -> A:
    """`a @ b`.

    >>> product(np.eye(2), np.array([[1.0], [2.0]])).tolist()
    [[1.0], [2.0]]
    """
    with np.errstate(invalid="ignore"):
        found: A = a @ b
    return found
