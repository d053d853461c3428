"""Independent jobs in several processes, stopped well: what is done is yielded, what has not begun is not."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

from geal_edge.errors import Interrupted, UsageError
from geal_edge.runtime.stopping import Stop

Job = TypeVar("Job")
Result = TypeVar("Result")

LOOK_EVERY_S = 0.2
"""How long a Ctrl-C may wait for the jobs to be told."""


def run_jobs(
    work: Callable[[Job, Stop], Result], jobs: Sequence[Job], *, processes: int, stop: Stop
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they are done; with one process in the order of the jobs, and in this process.

    work  a function of a module, which raises Interrupted where it is stopped before it has its result

    Once `stop` is asked the jobs in hand are told, no other one begins, and the iterator ends: ask `stop` whether it was so.
    An error of a job ends all others.
    """
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            if stop():
                return
            try:
                result = work(job, stop)
            except Interrupted:
                return
            yield job, result
        return
    # Not forked: threads of a BLAS or an engine do not survive that.
    context = get_context("spawn")
    told = context.Event()
    with ProcessPoolExecutor(min(processes, len(jobs)), context, _begin, (told,)) as executor:
        futures: dict[Future[Any], Job] = {executor.submit(_work, work, job): job for job in jobs}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, LOOK_EVERY_S, FIRST_COMPLETED)
                if stop():
                    told.set()
                    waiting = {future for future in waiting if not future.cancel()}
                for future in done:
                    if future.cancelled():
                        continue
                    try:
                        result = future.result()
                    except Interrupted:
                        continue
                    yield futures[future], result
        except BrokenProcessPool as error:
            raise UsageError(
                f"one of {processes} processes was ended from outside, as a machine short of memory does. "
                "The same command goes on; give it fewer --jobs."
            ) from error
        finally:
            told.set()
            executor.shutdown(cancel_futures=True)


class _Told(Stop):
    """Asked by the process that gave the jobs out."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self._event = event

    def __call__(self) -> bool:
        if self._event.is_set():
            self.asked = True
        return self.asked


_stop = Stop()
"""In a process of its own: what its jobs are given."""


def _begin(told: Event) -> None:
    global _stop  # noqa: PLW0603  the one way from a process's beginning to its jobs
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal's Ctrl-C reaches every process; the first one tells the others
    _stop = _Told(told)


def _work(work: Callable[[Job, Stop], Result], job: Job) -> Result:
    return work(job, _stop)
