"""`geal-edge upload`: a spool, a far side, and the loop around the uploader that only waits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np

from geal_edge.config import UploadConfig
from geal_edge.errors import UploadUnfinished, UsageError
from geal_edge.runtime.identity import machine_name
from geal_edge.runtime.notify import Supervisor
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.outbox import Outbox, release_recorded
from geal_edge.runtime.outgoing import Outgoing
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.upload.heartbeat import Heartbeat
from geal_edge.runtime.upload.store import Store, open_store
from geal_edge.runtime.upload.uploader import Step, Uploader
from geal_edge.runtime.vehicletime import Moment, moment

TRIES = 5
"""Failures in a row after which `--once` gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """What an upload did: units sent, and units set aside by it."""

    sent: int
    set_aside: int


def upload(
    spool: Path,
    config: UploadConfig,
    *,
    once: bool = False,
    force: str | None = None,
    watch: Observer,
    stop: Stop | None = None,
    store: Store | None = None,
    privacy: PrivacyFilter | None = None,
    now: Callable[[], Moment] = moment,
    rng: np.random.Generator | None = None,
    supervisor: Supervisor | None = None,
) -> Uploaded:
    """Send what is released, until it is told to stop; with `once` until all is sent, with `force` the unit of one frame.

    Pictures pass `privacy` before they leave. A spool of recorded sources that were read to their end releases its selection
    first. `supervisor` hears that the loop goes round. Raises UploadUnfinished where `once` or `force` leaves something behind,
    UploadError where a person must help, UsageError for an id that waits for nothing, PrivacyError where pictures must pass a
    hook that `privacy` has not, Interrupted, and whatever opening the spool or the far side raises.
    """
    store = store or open_store(config.to)
    supervisor = supervisor or Supervisor({})
    with Outbox(spool, privacy=privacy) as outbox:
        supervisor.ready()
        vehicle = vehicle_of(config, spool)
        release_recorded(spool)
        uploader = Uploader(
            outbox, store, config, vehicle=vehicle, rng=rng or np.random.default_rng(), busy=supervisor.busy
        )
        if force is not None:
            return _forced(uploader, force, spool)
        folder = "/".join(filter(None, (config.prefix, vehicle)))
        beats = Heartbeat(spool, folder, uploader.put, now)
        sent, set_aside, said = 0, 0, ""
        for _ in (stop or Stop()).between(_pauses(uploader, supervisor.every_s)):
            step = uploader.step()
            sent += step is Step.SENT
            set_aside += step is Step.SET_ASIDE
            if step in (Step.SENT, Step.SET_ASIDE, Step.IDLE, Step.METERED):  # it is small
                beats.step()
            supervisor.alive(f"{sent} units sent, {set_aside} set aside{uploader.why and f': {uploader.why}'}")
            if step is Step.SENT:
                watch.advance(sent=sent, set_aside=set_aside)
            elif step is Step.IDLE and not once:
                release_recorded(spool)
            elif once and (step in (Step.CLOSED, Step.METERED) or uploader.failures >= TRIES):
                words = f"{spool}: {sent} units were sent, and not all: {uploader.why}. The same command goes on from there."
                raise UploadUnfinished("retry", "unfinished", words)
            if uploader.failures <= 1 and uploader.why != said:  # the first of a row of failures stands for them
                said = uploader.why
                if said:
                    watch.warn(said)
            if step is Step.IDLE and once:
                if sent or set_aside:
                    beats.last()
                break
        return Uploaded(sent=sent, set_aside=set_aside)


def planned(spool: Path) -> Iterator[Outgoing]:
    """What is released and would be sent now, in this order; nothing is changed, and the far side is not asked."""
    with open_view(spool) as view:
        yield from view.outgoing()


def set_aside_in(spool: Path) -> int:
    """Released units that are not sent, and not tried again by themselves."""
    with open_view(spool) as view:
        aside: int = view.beat()["upload"]["set_aside"]
        return aside


def released_first(spool: Path) -> bool:
    """Whether an upload would release the selection of recorded sources, and send that too."""
    with open_view(spool) as view:
        return view.released_by_upload()


def vehicle_of(config: UploadConfig, spool: Path) -> str:
    """Who sends: as configured, else whose the spool is, else the name of this machine."""
    if config.vehicle is not None:
        return config.vehicle
    with open_view(spool) as view:
        return view.vehicle or machine_name()


def _forced(uploader: Uploader, id_: str, spool: Path) -> Uploaded:
    step = uploader.force(id_)
    if step is Step.IDLE:
        raise UsageError(f"{id_}: is not a released frame that waits. `geal-edge why {spool} {id_}` says what it is.")
    if step is not Step.SENT:
        raise UploadUnfinished("retry", "unfinished", f"{id_}: is not sent. `geal-edge why {spool} {id_}` says why.")
    return Uploaded(sent=1, set_aside=0)


def _pauses(uploader: Uploader, at_most_s: float) -> Iterator[None]:
    """One for each step, as soon as it may do something, or so many seconds are over. A signal ends the pause (stopping.py)."""
    pause = Event()
    while True:
        pause.wait(min(uploader.wait_s, at_most_s))
        yield
