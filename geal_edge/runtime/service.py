"""A run as a service: by a configuration, watched by a supervisor, and with another configuration when it is told to.

    read, checked whole -> bundle admitted -> run: READY, then WATCHDOG with the frames that are judged, or while none comes
    SIGHUP -> read anew -> all of it is taken over after the unit in hand, or nothing, and an event says which and why

To take a configuration over, the run ends as it would for SIGTERM and begins again on the same spool, with the model still
loaded. So whatever a restart could change can be changed, but for what a spool was filled with, what the cameras are, and what
the model is: those keys are refused by name (`reload` in settings/sections.py).
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from geal_edge.errors import BundleError, ConfigError, Interrupted, UsageError
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pipeline
from geal_edge.runtime.companion import Companion, Program
from geal_edge.runtime.identity import Identity, machine_name
from geal_edge.runtime.live import LiveSource
from geal_edge.runtime.notify import Supervisor
from geal_edge.runtime.observer import Notice, Observer
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.secrets import masked
from geal_edge.runtime.settings import Configuration, Settings
from geal_edge.runtime.settings.reference import digest
from geal_edge.runtime.settings.sections import KEYS, BundleConfig
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.telemetry import Telemetry
from geal_edge.runtime.vehicletime import boot_id


def admitted(config: BundleConfig) -> Bundle:
    """The bundle, if a service may run it. Raises BundleError where it is not the one that was pinned, or untrained."""
    bundle = Bundle.open(config.path)
    if config.digest not in (None, bundle.digest):
        raise BundleError(
            f"{config.path}: its digest is {bundle.digest}, and [bundle] digest pins {config.digest}. Put that bundle there, or "
            "change the pin."
        )
    if bundle.manifest.untrained and not config.allow_untrained:
        raise BundleError(
            f"{config.path}: its weights are untrained, and a service would spend its budget on what they choose. Use a bundle "
            "of trained weights, or allow this one: [bundle] allow_untrained = true, or --allow-untrained."
        )
    return bundle


class Service(Observer):
    """Who watches a service's run: tells the supervisor, and reads the configuration anew when it is asked to.

    watch       who else watches
    read        reads the configuration; raises ConfigError
    uploader    the process of `[upload] inside`; uploads: the program that a configuration wants in it, if any
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        watch: Observer,
        read: Callable[[], Configuration],
        supervisor: Supervisor,
        stop: Stop,
        uploader: Companion,
        uploads: Callable[[Configuration], Program | None],
    ) -> None:
        self.configuration = configuration
        self.next: Configuration | None = None
        """Read and found right; taken over as soon as the run has ended for it."""
        self._watch = watch
        self._read = read
        self._supervisor = supervisor
        self._stop = stop
        self._uploader = uploader
        self._uploads = uploads
        uploader.use(uploads(configuration))
        self._asked = False
        self._notices: deque[Notice] = deque()
        self._seen = 0
        self._counts: dict[str, int] = {}

    def ask_to_reload(self) -> None:
        """Called from a signal handler."""
        self._asked = True

    def begin(self, what: str, total: int | None) -> None:
        self._supervisor.ready()
        self._watch.begin(what, total)

    def advance(self, **counts: int) -> None:
        self._seen += 1
        self._counts = counts
        self._watch.advance(**counts)

    def warn(self, message: str) -> None:
        self._watch.warn(message)

    def take_notices(self) -> Sequence[Notice]:
        self._supervisor.alive(self._status())
        if self._asked and self.next is None:
            self._asked = False
            self._read_anew()
        taken = [self._notices.popleft() for _ in range(len(self._notices))] + self._uploader.step()
        for notice in taken:
            if notice.name == "metrics_unavailable":
                self._watch.warn(
                    "[metrics] {key} = {value}: {reason}; tried again, and the run goes on".format(**notice.detail)
                )
            if notice.name == "uploader_ended":
                self._watch.warn(_ended_words(**notice.detail))
        return taken

    def note(self, notice: Notice) -> None:
        """To be an event; called from any thread."""
        self._notices.append(notice)

    def take_over(self, now: Configuration) -> None:
        """Go over to this configuration."""
        inside = any(_uploads_inside(either) for either in (self.configuration, now))
        changed = changes(self.configuration, now, inside=inside)
        detail: dict[str, Any] = {"config": digest(now), "changed": changed}
        self._notices.append(Notice(name="config_reloaded", detail=detail))
        self._watch.warn(f"another configuration is in force; changed: {', '.join(changed) or 'nothing'}")
        if _of_uploader(now) != _of_uploader(self.configuration) or self._uploader.rests:
            self._uploader.use(self._uploads(now))
        self.configuration, self.next = now, None

    def _read_anew(self) -> None:
        try:
            found = self._read()
            require_reloadable(self.configuration, found)
        except ConfigError as error:
            self._notices.append(Notice(name="config_refused", detail={"reason": str(error)}))
            self._watch.warn(f"the configuration was refused, and the one before stays in force: {error}")
            return
        self._supervisor.reloading()
        self.next = found
        self._stop.pause()

    def end(self) -> None:
        self._supervisor.stopping()
        self._uploader.stop()

    def _status(self) -> str:
        counts = "".join(f", {n} {name}" for name, n in self._counts.items())
        return f"{self._seen} frames seen{counts}"


def _of_uploader(configuration: Configuration) -> object:
    """What the uploader reads of it, and a reload may change: one that stayed would send pictures past a hook that is new."""
    return configuration.settings.upload, configuration.settings.privacy


def _uploads_inside(configuration: Configuration) -> bool:
    """Else a process of its own sends, which no reload of this one reaches."""
    return configuration.settings.upload is not None and configuration.settings.upload.inside


def _ended_words(code: int | None, retry_in_s: float | None, detail: str = "") -> str:
    how = f"could not be started ({detail})" if code is None else f"ended with {code}"
    again = "another start would find the same" if retry_in_s is None else f"it is started again in {retry_in_s:g} s"
    return f"the uploader {how}; {again}"


def changes(before: Configuration, now: Configuration, *, inside: bool = False) -> dict[str, dict[str, Any]]:
    """Keys of a run whose values differ, and how: key -> {"was": ..., "now": ...}, as text without secrets: events have it.
    inside: with those of an uploader inside it, which is started anew for them."""
    found = {name: (before.value(key), now.value(key)) for name, key in KEYS.items() if inside or not key.optional}
    return {name: {"was": masked(str(was)), "now": masked(str(to))} for name, (was, to) in found.items() if was != to}


OF_THE_SPOOL = ("budget.frames_", "budget.bytes_", "source.group_s ", "gates.guard ")
"""What a spool keeps for ever: after a restart `run` would refuse another value of these."""


def require_reloadable(before: Configuration, now: Configuration) -> None:
    """Raise ConfigError, naming the keys, where a running service would have to change what it cannot, or could not go on."""
    fixed = [f"{name} ({now.origins[name]})" for name in changes(before, now) if not KEYS[name].reload]
    if fixed:
        if any(name.startswith(OF_THE_SPOOL) for name in fixed):
            how = "What belongs to the spool (the budget, source.group_s, gates.guard) takes another spool.path and a restart."
        else:
            how = "Restart it to take this over."
        raise ConfigError(f"{', '.join(fixed)}: cannot change while the service runs. {how}")
    try:
        PrivacyFilter(now.settings.privacy)
    except UsageError as error:
        raise ConfigError(str(error)) from error


def serve(
    service: Service,
    source: LiveSource,
    *,
    encoder: pipeline.AnyEncoder,
    shadow: bool = False,
    tags: Sequence[str] = (),
    telemetry: Telemetry | None = None,
    stop: Stop,
) -> pipeline.RunResult:
    """Run a service until it is told to stop, or its source ends. Raises Interrupted, and whatever a run raises."""
    begun = False
    try:
        while True:
            settings = service.configuration.settings
            try:
                return service_run(
                    settings,
                    source,
                    encoder=encoder,
                    begun=begun,
                    identity=identity_of(service.configuration),
                    shadow=shadow,
                    tags=tags,
                    telemetry=telemetry,
                    watch=service,
                    stop=stop,
                )
            except Interrupted:
                if stop.asked or service.next is None:
                    raise
                service.take_over(service.next)
                begun = True
    finally:
        service.end()


def identity_of(configuration: Configuration) -> Identity:
    """Who runs by this configuration."""
    vehicle = configuration.settings.vehicle.id or machine_name()
    return Identity(vehicle=vehicle, boot_id=boot_id(), config=digest(configuration))


def service_run(
    settings: Settings,
    source: LiveSource,
    *,
    encoder: pipeline.AnyEncoder,
    begun: bool,
    identity: Identity,
    shadow: bool,
    tags: Sequence[str],
    telemetry: Telemetry | None,
    watch: Observer,
    stop: Stop,
) -> pipeline.RunResult:
    """A run by these settings: the one place where they are handed over."""
    source.set_rate(settings.source.rate_hz)
    return pipeline.run(
        [source],
        encoder=encoder,
        spool_path=settings.spool.path,
        budget=settings.budget.plan(settings.trip.gap_s),
        # Once begun the spool has them; a file that changed meanwhile is for a restart to refuse.
        known=() if begun else settings.memory.known,
        ignore=() if begun else settings.memory.ignore,
        identity=identity,
        group_s=settings.source.group_s,
        encoding=settings.spool.encoding,
        guard=settings.guard.guard,
        gates=settings.gates,
        context=settings.context,
        disk=settings.disk,
        privacy=settings.privacy,
        limits=settings.limits,
        shadow=shadow,
        tags=tags,
        flush_s=settings.spool.flush_s,
        memory_frames=settings.memory.max_frames,
        telemetry=telemetry,
        watch=watch,
        stop=stop,
    )
