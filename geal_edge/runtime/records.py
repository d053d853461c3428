"""What `geal-edge verify` found out about engines, in the state folder, for later starts to read.

A record holds for one bundle, one version of the engine and one device; a new driver or package makes it void.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geal_edge
from geal_edge.errors import BackendError, MissingDependency
from geal_edge.models.bundle import Bundle
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime import durable
from geal_edge.runtime.backends.choice import BackendName
from geal_edge.runtime.backends.identity import Identity, identity
from geal_edge.runtime.parity import Inside, ParityReport
from geal_edge.runtime.reference import inside
from geal_edge.runtime.selection_parity import SelectionParity
from geal_edge.runtime.state import State

SCHEMA = "geal-edge/verify/1"
REFERENCE_BACKEND: BackendName = "ort-cpu"
"""What export itself checked the graph with: other engines' picks are measured against its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How an engine answered.

    inside     what it computed in, which decides what is allowed
    parity     None where it could not answer at all; then `error` says why
    selection  None where no source was given
    origin     that source's name
    frame_ms   median time of one frame in the engine, where it answered
    """

    backend: BackendName
    identity: Identity
    inside: Inside
    parity: ParityReport | None = None
    selection: SelectionParity | None = None
    origin: str | None = None
    frame_ms: float | None = None
    error: str | None = None

    @property
    def passed(self) -> bool:
        sound = self.parity is not None and self.parity.passed
        return sound and (self.selection is None or self.selection.passed)

    def as_json(self, bundle: Bundle, *, wall_ns: int) -> dict[str, Any]:
        """The record as it lies in the state folder, and as `verify --json` prints it."""
        return {
            "schema": SCHEMA,
            "producer": f"geal-edge {geal_edge.__version__}",
            "passed": self.passed,
            "backend": self.backend,
            "engine": self.identity.engine,
            "device": self.identity.device,
            "bundle": bundle.digest,
            "graph": bundle.manifest.graph_digest,
            "inside": self.inside,
            "parity": None if self.parity is None else self.parity.as_dict(),
            "selection": None
            if self.selection is None
            else {"reference": REFERENCE_BACKEND, "origin": self.origin, **self.selection.as_dict()},
            "frame_ms": self.frame_ms,
            "error": self.error,
            "wall_ns": wall_ns,
        }

    def __str__(self) -> str:
        parts = [self.error, self.parity, self.selection]
        return "\n".join(str(part) for part in parts if part is not None)


def record_path(state: State, bundle: Bundle, name: BackendName) -> Path:
    return state.of_bundle(bundle.digest) / f"verify-{name}.json"


def write_record(state: State, bundle: Bundle, verification: Verification, *, wall_ns: int) -> Path:
    """Put a verification where later starts find it, in place of an older one. Raises StorageError."""
    path = record_path(state, bundle, verification.backend)
    record = verification.as_json(bundle, wall_ns=wall_ns)
    durable.make_folder(path.parent)
    durable.write_file(path, json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n")
    return path


def forget(state: State, bundle: Bundle, name: BackendName) -> None:
    """An engine that becomes another one was never verified. Raises StorageError."""
    durable.remove_file(record_path(state, bundle, name))


def revoke(state: State, bundle: Bundle, name: BackendName, reason: str, *, wall_ns: int) -> None:
    """An engine that was verified and then failed is not verified any more. Raises StorageError, and MissingDependency or
    BackendError where the engine is not even there."""
    failed = Verification(
        backend=name, identity=identity(name), inside=inside(name, bundle.manifest), error=f"failed at work: {reason}"
    )
    write_record(state, bundle, failed, wall_ns=wall_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the records say of one engine here and now.

    verdict   verified: it may be used; failed, void (of another version or device), absent: it may not
    why       in words
    frame_ms  of a verified one
    """

    backend: BackendName
    verdict: Literal["verified", "failed", "void", "absent"]
    why: str
    frame_ms: float = float("inf")


def standing(state: State, bundle: Bundle, name: BackendName) -> Standing:
    """Read the record of one engine. Nothing is started; a record that cannot be read counts as none."""
    try:
        record = parse_json(record_path(state, bundle, name).read_bytes())
        passed, frame_ms = record["passed"] is True, record["frame_ms"]
        of_record = (record["schema"], record["bundle"], record["graph"], record["engine"], record["device"])
    except FileNotFoundError:
        return Standing(backend=name, verdict="absent", why="was never verified here")
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        return Standing(backend=name, verdict="absent", why=f"its record cannot be read ({error!r})")
    try:
        here = identity(name)
    except (BackendError, MissingDependency) as error:
        return Standing(backend=name, verdict="void", why=f"was verified, and cannot run now: {error}")
    if of_record != (SCHEMA, bundle.digest, bundle.manifest.graph_digest, here.engine, here.device):
        was, now = f"{of_record[3]} on {of_record[4]}", f"{here.engine} on {here.device}"
        return Standing(backend=name, verdict="void", why=f"was verified as {was}, and is {now} now")
    if not passed:
        return Standing(backend=name, verdict="failed", why=str(record.get("error") or "did not answer right"))
    if not isinstance(frame_ms, float):
        return Standing(backend=name, verdict="absent", why="its record has no frame_ms")
    why = f"verified with {here.engine} on {here.device}, {frame_ms:.1f} ms a frame"
    return Standing(backend=name, verdict="verified", why=why, frame_ms=frame_ms)
