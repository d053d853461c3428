"""How many CPU threads the small matrix products of a frame may wake."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within, NumPy's BLAS uses the calling thread only.

    The products of one frame are small: threads that wait for each other make them slower even on an idle machine, and
    tens of times slower beside other software. Without threadpoolctl nothing happens; OPENBLAS_NUM_THREADS=1 does the same.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield
