"""`geal-edge inspect`: what a bundle, a spool, stored features, a memory, picks, a plan or a verification promises, in words or
JSON."""

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from geal_edge.cli.common import Json
from geal_edge.cli.memory import memory_lines
from geal_edge.cli.status import status_lines
from geal_edge.errors import BackendError, UsageError
from geal_edge.models.bundle import MANIFEST_FILE, Bundle, output_dtype
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime.features import HEAD, read_head
from geal_edge.runtime.memoryfile import is_memory, memory_json, read_memory
from geal_edge.runtime.plan import SCHEMA as PLAN_SCHEMA
from geal_edge.runtime.plan import SUFFIX as PLAN_SUFFIX
from geal_edge.runtime.plan import read_stored
from geal_edge.runtime.pool import read_picks
from geal_edge.runtime.records import SCHEMA as VERIFY_SCHEMA
from geal_edge.runtime.spooldb import DATABASE
from geal_edge.runtime.spoolview import open_view


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Bundle, spool or features folder; memory, picks, plan or verification file."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Print what a bundle, a spool, stored features, a memory, picks, a TensorRT plan or a verification is and promises.

    Example: `geal-edge inspect bundle`
    """
    if (path / MANIFEST_FILE).is_file():
        bundle = Bundle.open(path)
        data = {**bundle.manifest.as_json(), "digest": bundle.digest}
        lines = _whole(path, bundle_lines(bundle))
    elif (path / DATABASE).is_file():
        with open_view(path) as view:
            data = view.status()
        lines = status_lines(path, data)
    elif (path / HEAD).is_file():
        data = read_head(path)
        lines = _whole(path, features_lines(path, data))
    elif is_memory(path):
        data = memory_json(path, read_memory(path))
        lines = memory_lines(path, data)
    elif path.suffix == PLAN_SUFFIX or schema_of(path) == PLAN_SCHEMA:
        data = plan_json(path.with_suffix(PLAN_SUFFIX))
        lines = _whole(path, plan_lines(data))
    elif schema_of(path) == VERIFY_SCHEMA:
        data = parse_json(path.read_bytes())
        lines = _whole(path, verification_lines(path, data))
    elif path.is_file():
        data = read_picks(path)
        lines = _whole(path, picks_lines(path, data))
    elif not path.exists():
        raise UsageError(f"{path}: no such file or folder.")
    else:
        raise UsageError(
            f"{path}: is no bundle ({MANIFEST_FILE}), no spool ({DATABASE}), no stored features ({HEAD}), no memory, "
            "no plan, no verification and no picks file."
        )
    print(json.dumps(data, indent=1, ensure_ascii=False) if as_json else "\n".join(lines))


def bundle_lines(bundle: Bundle) -> Iterator[str]:
    m = bundle.manifest
    size = bundle.graph.stat().st_size
    yield f"bundle {bundle.path}"
    yield f"  digest         {bundle.digest}"
    yield f"  feature space  {m.feature_space}"
    yield f"  made by        {m.producer}"
    trained = "UNTRAINED: for trying the machinery only" if m.untrained else "trained"
    yield f"  model          {m.model['name']}, weights {m.weights['origin']} ({trained})"
    yield f"  input          image: uint8 [{m.batch or 'N'}, {m.height}, {m.width}, 3] RGB, {m.width} wide x {m.height} high"
    yield f"  resize         {m.resize}, aspect not kept; mean {m.mean} std {m.std} are applied in the graph"
    for name, shape in m.outputs.items():
        yield f"  output         {name}: {output_dtype(name)} [{', '.join(map(str, shape))}]"
    yield f"  patches        {m.grid[0]} rows x {m.grid[1]} columns, row by row; tap {m.tap!r}"
    yield f"  graph          {bundle.graph.name}, opset {m.opset}, {m.precision} inside, {size / 1e6:.1f} MB"
    c = m.clusters
    yield (
        f"  preset         {m.preset}: attention ratio {c.attention_ratio:g} ({c.ratio_rule}), "
        f"{c.clusters_per_frame} clusters per frame, {c.kmeans_metric}{', made in the graph' if m.clusters_in_graph else ''}"
    )
    checked = ", ".join(f"{name} {_error(report)}" for name, report in m.parity["outputs"].items())
    yield f"  checked        {m.parity['frames']} {m.reference_origin} frames against float64: largest error {checked}"


def features_lines(path: Path, data: dict[str, Any]) -> Iterator[str]:
    yield f"stored features {path}"
    untrained = " (UNTRAINED)" if data["untrained"] else ""
    seen, (rows, columns) = data["input"], data["grid"]
    yield f"  token space    {data['token_space']}"
    yield f"  made by        {data['producer']}"
    yield f"  weights        {data['weights']}{untrained}, tap {data['tap']!r}"
    yield f"  input          {seen['width']} wide x {seen['height']} high, {seen['resize']}"
    yield f"  normalisation  mean {seen['mean']} std {seen['std']}"
    yield f"  patches        {rows} rows x {columns} columns"
    for name, shape in data["arrays"].items():
        yield f"  array          {name}: {' x '.join(map(str, shape))} per frame"


def picks_lines(path: Path, data: dict[str, Any]) -> Iterator[str]:
    frames = data["frames"]
    yield f"picks {path}"
    yield f"  feature space  {data['feature_space']}" + (" (UNTRAINED weights)" if data["untrained"] else "")
    yield f"  made by        {data['producer']}, strategy {data['strategy']}, preset {data['preset']}, seed {data['seed']}"
    others = ", ".join(f"{frames[state]} {state}" for state in ("known", "gated") if frames.get(state))
    yield (
        f"  frames         {frames['seen']} seen, {frames['lost']} lost, {others + ', ' if others else ''}"
        f"{frames['selected']} selected{' (cut short)' if data.get('cut') else ''}"
    )
    for source in data["sources"]:
        yield f"  source         {source['name']} ({source['spec']})"
    for pick in data["picks"]:
        yield f"  {pick['order']:>5}  {pick['distance']:.4f}  {pick['id']}"


def schema_of(path: Path) -> object:
    """What a JSON file says that it is; None where it says nothing, or is no JSON."""
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data.get("schema") if isinstance(data, dict) else None


def _whole(path: Path, lines: Iterator[str]) -> Iterator[str]:
    """The lines of a file whose fields nobody has checked. Raises UsageError where one is absent or wrong."""
    try:
        return iter(list(lines))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UsageError(f"{path}: is not whole ({error!r}). Delete it, and make it anew.") from error


def plan_json(path: Path) -> dict[str, Any]:
    """The JSON beside a plan, and `damage`: what is wrong with the plan's own bytes, or null. Raises UsageError, BackendError."""
    try:
        stored = read_stored(path)
    except FileNotFoundError:
        raise UsageError(
            f"{path}: has no {path.with_suffix('.json').name} beside it, so nobody can say for whom it is."
        ) from None
    except BackendError as error:
        raise BackendError(f"{path}: {error}. Build it again with `geal-edge build`.") from error
    return {**parse_json(path.with_suffix(".json").read_bytes()), "damage": stored.damage()}


def plan_lines(data: dict[str, Any]) -> Iterator[str]:
    capability, gpu = data["compute_capability"], data["gpu"] or "any GPU"
    yield f"TensorRT plan {data['plan']['file']}"
    yield f"  built with     {data['module']} {data['version']}, driver of {data['driver'] or 'no GPU at hand'}"
    yield f"  made by        {data['producer']}"
    yield f"  runs on        {gpu} of compute capability {capability}, with that version alone"
    yield f"  graph          {data['graph']}"
    yield f"  batch          {data['max_batch']} at most"
    whole = f"{data['plan']['bytes'] / 1e6:.1f} MB, whole"
    yield f"  file           {data['damage'] or whole}"


def verification_lines(path: Path, data: dict[str, Any]) -> Iterator[str]:
    yield f"verification {path}"
    yield f"  backend        {data['backend']}: {'verified' if data['passed'] else 'FAILED'}"
    yield f"  held for       {data['engine']} on {data['device']}"
    yield f"  bundle         {data['bundle']}, {data['inside']} inside"
    yield f"  when           {datetime.fromtimestamp(data['wall_ns'] // 10**9, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    if data["error"] is not None:
        yield f"  error          {data['error']}"
    if data["parity"] is not None:
        checked = ", ".join(f"{name} {_error(report)}" for name, report in data["parity"]["outputs"].items())
        yield f"  parity         {data['parity']['frames']} frames against float64: largest error {checked}"
    if (selection := data["selection"]) is not None:
        yield (
            f"  selection      cover radius x {selection['radius_ratio']:.3f}, mean cover x {selection['mean_ratio']:.3f} of the "
            f"picks of {selection['reference']}, {selection['budget']} of {selection['frames']} frames of {selection['origin']}"
        )
    if data["frame_ms"] is not None:
        yield f"  speed          {data['frame_ms']:.1f} ms a frame"


def _error(report: dict[str, Any]) -> str:
    return "not finite" if report["max_error"] is None else f"{report['max_error']:.1e}"
