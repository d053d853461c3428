"""Two processes on one spool, in any order of their operations: a scheduler that lets one of them at a time take one step.

A step ends before a file is opened, written, synced, renamed or removed, and before every statement outside a transaction and
every transaction as a whole: inside one, nobody else gets in, since SQLite holds the lock. Both may be killed between any two.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import geal_edge.runtime.outbox as outbox_module
import geal_edge.runtime.spool as spool_module
from geal_edge.runtime import durable
from geal_edge.runtime.spooldb import connection
from tests.fakes import Died, DyingDisk


class Party(threading.Thread):
    """One of the processes. `work` opens what it needs, calls `ready`, and does what is interleaved."""

    def __init__(self, work: Callable[["Party"], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._opened = self._dying = self.in_transaction = False
        self.over = False
        self.error: BaseException | None = None
        self.start()
        self._stands.acquire()

    def run(self) -> None:
        try:
            self._work(self)
        except Died:
            pass
        except BaseException as error:  # noqa: BLE001 - told to whoever asked for the steps
            self.error = error
        self.over = True
        self._stands.release()

    def ready(self) -> None:
        """What comes now is interleaved."""
        self._opened = True
        self.point()

    def point(self) -> None:
        """A step is over; returns when the next may be taken."""
        if not self._opened or self.in_transaction:
            return
        self._stands.release()
        self._go.acquire()
        if self._dying:
            self._opened = False  # what tidies up after it is no step
            raise Died

    def step(self) -> None:
        if not self.over:
            self._go.release()
            self._stands.acquire()

    def steps(self, count: int) -> int:
        """Take so many steps, or all that are left; gives how many there were."""
        taken = 0
        while not self.over and taken < count:
            self.step()
            taken += 1
        return taken

    def end(self) -> None:
        """To the end."""
        self.steps(1_000_000)
        self.join()
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        """It takes no step any more."""
        self._dying = True
        self.step()
        self.join()


@contextmanager
def scheduled() -> Iterator[None]:
    """Within: the operations of parties are steps."""

    def at_a_point() -> Party | None:
        party = threading.current_thread()
        return party if isinstance(party, Party) else None

    class Os:
        """`os` as durable.py sees it."""

        def __getattr__(self, name: str) -> Any:
            call = getattr(os, name)

            def step(*args: Any, **kwargs: Any) -> Any:
                if (party := at_a_point()) is not None:
                    party.point()
                return call(*args, **kwargs)

            return step if name in DyingDisk.FILE_CALLS else call

    class Database:
        def __init__(self, database: Any) -> None:
            self._database = database

        def execute(self, statement: str, *args: Any) -> Any:
            party = at_a_point()
            if party is None:
                return self._database.execute(statement, *args)
            party.point()
            if statement.startswith("BEGIN"):
                party.in_transaction = True
            try:
                return self._database.execute(statement, *args)
            finally:
                if statement in ("COMMIT", "ROLLBACK"):
                    party.in_transaction = False

        def __getattr__(self, name: str) -> Any:
            return getattr(self._database, name)

    @contextmanager
    def scheduled_connection(path: Path) -> Iterator[Any]:
        with connection(path) as database:
            yield Database(database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "os", Os())
        patch.setattr(spool_module, "connection", scheduled_connection)
        patch.setattr(outbox_module, "connection", scheduled_connection)
        yield
