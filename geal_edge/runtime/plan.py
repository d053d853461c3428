"""A TensorRT plan and the JSON beside it, which says for whom it was built: read before any object of TensorRT is made.

TensorRT refuses a plan of another version or GPU late and in its own words, or not at all. So what does not fit is never given
to it. Identical vehicles may share a plan: the same TensorRT on the same kind of GPU.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geal_edge
from geal_edge.models.bundle import digest, file_digest
from geal_edge.runtime import durable

SCHEMA = "geal-edge/plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """What a plan is built from and for; all of it must be the same for a plan to be used.

    module              `tensorrt` or `tensorrt_rtx`
    version             of that module
    gpu                 its name; None where it was built for a compute capability alone, with no GPU at hand
    compute_capability  such as "8.6"
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
        return f"{self.module}-{self.compute_capability}-batch{self.max_batch}.plan"


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
    """Why the plan stored for these facts cannot be used, in words; None: it can. Nothing of TensorRT is touched."""
    path = folder / facts.file
    try:
        record: Any = json.loads(path.with_suffix(".json").read_bytes())
        schema, plan_digest = record["schema"], record["plan"]["digest"]
        differs = [
            f"its {name} is {record.get(name)!r}, here it is {value!r}"
            for name, value in asdict(facts).items()
            if record.get(name) != value
        ]
    except FileNotFoundError:
        return "there was none"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its JSON cannot be read ({error!r})"
    if schema != SCHEMA:
        return f"its schema is {schema!r}, this version reads {SCHEMA!r}"
    if differs:
        return "; ".join(differs)
    try:
        found = file_digest(path)
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    return None if found == plan_digest else f"{path.name} is damaged or cut off: its digest is not the one in its JSON"
