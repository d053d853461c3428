"""A TensorRT plan and the JSON beside it, which says for whom it was built: read before any object of TensorRT is made.

TensorRT refuses a plan of another version or GPU late and in its own words, or not at all. So what does not fit is never given
to it. Identical vehicles may share a plan: the same TensorRT on the same kind of GPU, or with `build --hardware-compatible` on
any of an Ampere or newer.
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import geal_edge
from geal_edge.errors import BackendError
from geal_edge.models.bundle import digest, file_digest
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime import durable

SCHEMA = "geal-edge/plan/1"
SUFFIX = ".plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """What a plan is built from and for.

    module              `tensorrt` or `tensorrt_rtx`
    version             of that module
    gpu                 its name; None where any GPU of that compute capability will do
    compute_capability  such as "8.6"; "8.0+" where newer ones will do as well
    graph               digest of the ONNX file
    max_batch           batches from 1 to this many frames (the bundle's own where that is fixed)
    """

    module: str
    version: str
    gpu: str | None
    compute_capability: str
    graph: str
    max_batch: int

    @property
    def file(self) -> str:
        """The plan's name: one for each module, compute capability and batch."""
        return f"{self.module}-{self.compute_capability}-batch{self.max_batch}{SUFFIX}"

    def runs_on(self, here: "PlanFacts") -> list[str]:
        """What keeps such a plan from running on a machine, in words; nothing where it runs. Its batch is not looked at.

        >>> from dataclasses import replace
        >>> facts = PlanFacts(module="tensorrt", version="10.3.0", gpu=None, compute_capability="8.0+", graph="g", max_batch=1)
        >>> facts.runs_on(replace(facts, gpu="a GPU", compute_capability="12.0"))
        []
        >>> facts.runs_on(replace(facts, gpu="a GPU", compute_capability="7.5"))
        ["its compute_capability is '8.0+', here it is '7.5'"]
        """
        fits = {
            "module": self.module == here.module,
            "version": self.version == here.version,
            "gpu": self.gpu in (None, here.gpu),
            "compute_capability": _covers(self.compute_capability, here.compute_capability),
            "graph": self.graph == here.graph,
        }
        theirs, ours = asdict(self), asdict(here)
        return [_differs(name, theirs[name], ours[name]) for name, fit in fits.items() if not fit]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """A plan's JSON as it was read. path: of the plan; digest: what its bytes must have."""

    path: Path
    facts: PlanFacts
    digest: str

    def damage(self) -> str | None:
        """What is wrong with the plan's bytes, in words; None where they are those that were written."""
        try:
            found = file_digest(self.path)
        except OSError as error:
            return f"{self.path.name}: {error.strerror}"
        return None if found == self.digest else _damaged(self.path)


def read_stored(path: Path) -> StoredPlan:
    """The JSON beside a plan. Raises FileNotFoundError where there is none, BackendError where it cannot be believed."""
    try:
        record: Any = parse_json(path.with_suffix(".json").read_bytes())
        schema, plan_digest = record["schema"], record["plan"]["digest"]
        if schema != SCHEMA:
            raise BackendError(f"its schema is {schema!r}, this version reads {SCHEMA!r}")
        facts = PlanFacts(**{field.name: record[field.name] for field in fields(PlanFacts)})
        if not re.fullmatch(r"\d+\.\d+\+?", facts.compute_capability) or not isinstance(facts.max_batch, int):
            raise ValueError(f"compute_capability {facts.compute_capability!r}, max_batch {facts.max_batch!r}")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise BackendError(f"its JSON cannot be read ({error!r})") from error
    return StoredPlan(path=path, facts=facts, digest=plan_digest)


def write_plan(folder: Path, facts: PlanFacts, plan: bytes, *, driver: str | None) -> Path:
    """Store a plan with its JSON, in place of an older one. Raises StorageError."""
    durable.make_folder(folder)
    path = folder / facts.file
    record = {
        "schema": SCHEMA,
        "producer": f"geal-edge {geal_edge.__version__}",
        **asdict(facts),
        "driver": driver,
        "plan": {"file": path.name, "bytes": len(plan), "digest": digest(plan)},
    }
    # The JSON comes last and names the plan's bytes: of two that do not belong together none is used.
    durable.write_file(path, plan)
    durable.write_file(path.with_suffix(".json"), json.dumps(record, indent=1).encode() + b"\n")
    return path


def why_not(folder: Path, facts: PlanFacts) -> str | None:
    """Why the plan stored for these facts is not the one that would be built, in words; None: it is. Nothing of TensorRT is
    touched."""
    try:
        stored = read_stored(folder / facts.file)
    except FileNotFoundError:
        return "there was none"
    except BackendError as error:
        return str(error)
    theirs, ours = asdict(stored.facts), asdict(facts)
    differs = [_differs(name, theirs[name], ours[name]) for name in ours if theirs[name] != ours[name]]
    return "; ".join(differs) or stored.damage()


def find_plan(folder: Path, here: PlanFacts, *, build: str) -> tuple[bytes, PlanFacts]:
    """The plan that runs here, and what it is for. Nothing of TensorRT is touched.

    Of several it is that of the smallest batch, and of these one that was built for this GPU rather than for many.

    here   what it must be for, whatever its batch
    build  the command that makes one

    Raises BackendError, with each plan that is there and why it does not run.
    """
    runs: list[StoredPlan] = []
    refused: list[str] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            stored = read_stored(path)
            differs = stored.facts.runs_on(here)
        except FileNotFoundError:
            differs = ["it has no JSON beside it"]
        except BackendError as error:
            differs = [str(error)]
        else:
            if not differs:
                runs.append(stored)
        refused += [f"{path.name}: {'; '.join(differs)}"] if differs else []
    for stored in sorted(runs, key=lambda each: (each.facts.max_batch, each.facts.gpu is None)):
        plan = stored.path.read_bytes()
        if digest(plan) == stored.digest:
            return plan, stored.facts
        refused.append(_damaged(stored.path))
    raise BackendError(
        f"there is no TensorRT plan for this machine in {folder}{''.join(f'; {why}' for why in refused)}. Build one: {build}"
    )


def _covers(built_for: str, here: str) -> bool:
    if built_for.endswith("+"):
        return _numbers(here) >= _numbers(built_for[:-1])
    return built_for == here


def _numbers(compute_capability: str) -> tuple[int, ...]:
    return tuple(map(int, compute_capability.split(".")))


def _differs(name: str, theirs: object, ours: object) -> str:
    return f"its {name} is {theirs!r}, here it is {ours!r}"


def _damaged(path: Path) -> str:
    return f"{path.name} is damaged or cut off: its digest is not the one in its JSON"
