"""A checkpoint becomes a bundle: graph, check against float64, reference frames, manifest. Nothing is written that failed."""

import io
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

import geal_edge
from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD, PRESETS, Precision, ResizeFilter
from geal_edge.errors import BundleError, ParityError, SourceError, UsageError
from geal_edge.export.answers import answers
from geal_edge.export.clustergraph import with_clusters
from geal_edge.export.graph import OPSET, build_graph, serialize
from geal_edge.export.lint import lint
from geal_edge.export.lowering import Lowered, graph_parity, lower
from geal_edge.export.parity import reference_forward
from geal_edge.models.bundle import (
    CLUSTER_OUTPUTS,
    GRAPH_FILE,
    MANIFEST_FILE,
    REFERENCE_FILE,
    Bundle,
    Manifest,
    digest,
    manifest_bytes,
)
from geal_edge.models.preprocess import resize
from geal_edge.models.vit import Geometry, Weights
from geal_edge.runtime import durable
from geal_edge.runtime.clusterparity import compare_all
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.parity import ParityReport, tolerances
from geal_edge.runtime.selection_parity import SelectionParity
from geal_edge.runtime.sources import Source
from geal_edge.runtime.sources.drawn import DrawnDrive
from geal_edge.runtime.spread import POOL_FRAMES, spread_frames

BUNDLE_FILES = (GRAPH_FILE, REFERENCE_FILE, MANIFEST_FILE)
REFERENCE_FRAMES = 8
DRAWN_FRAMES = 64  # the drive from which they are taken where the user names none
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What an export can choose.

    width, height  input size in pixels, multiples of the patch size
    batch          fixed batch size, or None for any
    cls_embedding  with that output (for the global Core-Set baseline)
    clusters       with distillation and K-Means in the graph, and their outputs (export/clustergraph.py)
    tap            "norm": patch features after the final LayerNorm (the authors' code), "raw": before it
    precision      of the graph's inside (export/precision.py)
    max_loss       what lowering may cost (export/lowering.py); None = the precision's own limit
    """

    width: int = 224
    height: int = 224
    batch: int | None = None
    cls_embedding: bool = True
    clusters: bool = False
    tap: Literal["norm", "raw"] = "norm"
    resize: ResizeFilter = "pil_bicubic"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    preset: str = "geal"
    precision: Precision = "fp32"
    max_loss: float | None = None


def export_bundle(
    weights: Weights, out: Path, options: ExportOptions, *, check: Source | None = None, watch: Observer
) -> tuple[Bundle, ParityReport]:
    """`export`, for callers that calibrate nothing: the bundle and how far its graph is from float64."""
    exported = export(weights, out, options, check=check, watch=watch)
    return exported.bundle, exported.parity


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle that was written, and how it was checked.

    lowered    None for fp32
    selection  how its clusters select beside the host's of the fp32 graph; None for fp32 that ends at the tokens
    """

    bundle: Bundle
    parity: ParityReport
    lowered: Lowered | None
    selection: SelectionParity | None


def export(
    weights: Weights,
    out: Path,
    options: ExportOptions,
    *,
    check: Source | None = None,
    calibrate: Source | None = None,
    watch: Observer,
) -> Exported:
    """Build the graph, let ONNX Runtime answer the reference frames, and write the bundle if the answers hold.

    check      where the reference frames come from, and what clusters of an fp32 graph must select from as well as the
               host's do; None = drawn ones
    calibrate  where a lower precision takes its ranges, and must select as well as fp32 does; needed for all but fp32

    Raises ParityError where the graph computes something else than the weights say, or selects worse than its precision
    may; UsageError, BundleError or StorageError where the bundle cannot be made.
    """
    require_calibration(options, calibrate)
    out = Path(os.path.abspath(out))  # "." has no name to put a bundle beside
    require_free_place(out)
    weights.geometry.grid(options.width, options.height)  # a wrong size should not cost a minute first
    frames, origin = reference_frames(check, options)
    watch.begin("building the graph", None)
    model = build_graph(
        weights,
        width=options.width,
        height=options.height,
        mean=options.mean,
        std=options.std,
        batch=options.batch,
        cls_embedding=options.cls_embedding,
        tap=options.tap,
    )
    recipe = PRESETS[options.preset]
    if options.clusters:
        model = with_clusters(model, recipe)
        require_taken(model)
    expected = _expected(weights, frames, options, watch)
    parity = compare_all(
        expected, answers(serialize(model), frames, options.batch), tolerances("fp32", options.tap, expected), recipe
    )
    if not parity.passed:
        raise ParityError(
            f"the exported graph does not compute what the weights say, so no bundle was written:\n{parity}\n"
            "Please report this with the checkpoint's origin and the size."
        )
    lowered, selection = None, None
    if calibrate is not None:
        lowered = lower(
            model,
            options.precision,
            spread_frames(calibrate, POOL_FRAMES, lambda image: _resized(image, options)),
            origin=calibrate.name,
            depth=weights.geometry.depth,
            batch=options.batch,
            recipe=recipe,
            max_loss=options.max_loss,
            watch=watch,
        )
        model, selection = lowered.model, lowered.selection
        parity = compare_all(
            expected,
            answers(serialize(model), frames, options.batch),
            tolerances(options.precision, options.tap, expected),
            recipe,
        )
        require_sound(lowered, parity, options.precision)
    elif options.clusters:
        pool = spread_frames(check or _drawn(), POOL_FRAMES, lambda image: _resized(image, options))
        selection = graph_parity(model, pool, batch=options.batch, recipe=recipe, watch=watch)
        if not selection.passed:
            raise ParityError(
                f"the clusters of the graph select worse than the host's, so no bundle was written:\n{selection}\n"
                "Name a longer --check SOURCE, or leave --output out: the host groups the tokens."
            )
    graph = serialize(model)
    npz = _npz({"image": frames, **expected})
    report = parity.as_dict() if lowered is None else {**parity.as_dict(), **lowered.as_dict()}
    if lowered is None and selection is not None:
        report["selection"] = {**selection.as_dict(), "origin": origin}
    manifest = _manifest(weights, options, graph, npz, origin, expected, report)
    return Exported(bundle=_write(out, graph, npz, manifest), parity=parity, lowered=lowered, selection=selection)


def require_calibration(options: ExportOptions, calibrate: Source | None) -> None:
    """Raise UsageError where a precision lacks the frames that it needs, or where none are needed."""
    if calibrate is None and options.precision != "fp32":
        raise UsageError(
            f"--precision {options.precision}: needs frames of yours, to measure what it changes. Name some: --calibrate SOURCE."
        )
    if options.precision == "fp32" and (calibrate is not None or options.max_loss is not None):
        raise UsageError(
            "--precision fp32: has nothing to calibrate. Leave out --calibrate and --max-loss, or choose another --precision."
        )


def require_sound(lowered: Lowered, parity: ParityReport, precision: Precision) -> None:
    """Raise ParityError where a lowered graph's tensors or picks are too far off, with what to change."""
    if not (parity.passed and lowered.selection.passed):
        raise ParityError(
            f"{precision} changes too much, so no bundle was written:\n"
            f"{lowered.sensitivity}\n{parity}\n{lowered.selection}\n{lowered.advice()}"
        )
    if precision != "int8-dynamic":
        require_taken(lowered.model)


def require_taken(model: onnx.ModelProto) -> None:
    """Raise ParityError where the operator rules of TensorRT refuse a graph."""
    if faults := lint(model):
        raise ParityError("TensorRT would refuse this graph, so no bundle was written:\n" + "\n".join(faults))


def _expected(
    weights: Weights, frames: npt.NDArray[np.uint8], options: ExportOptions, watch: Observer
) -> dict[str, npt.NDArray[np.float64]]:
    """The float64 answers to the reference frames."""
    watch.begin("checking against float64", len(frames))
    reference: dict[str, list[Any]] = {}
    for frame in frames:
        one = reference_forward(
            weights,
            frame[None],
            mean=options.mean,
            std=options.std,
            tap=options.tap,
            cls_embedding=options.cls_embedding,
        )
        for name, values in one.items():
            reference.setdefault(name, []).append(values[0])
        watch.advance()
    return {name: np.stack(values) for name, values in reference.items()}


def _resized(image: npt.NDArray[np.uint8], options: ExportOptions) -> npt.NDArray[np.uint8]:
    return resize(image, options.width, options.height, options.resize)


def reference_frames(check: Source | None, options: ExportOptions) -> tuple[npt.NDArray[np.uint8], str]:
    """(uint8 (8, H, W, 3) at the input size, their origin's name), spread evenly over the source; fewer from a short one.

    Raises SourceError where the source has no usable frame.
    """
    source = check or _drawn()
    wanted = REFERENCE_FRAMES
    stride = max(1, (source.frame_count or wanted) // wanted)
    frames = []
    position = 0
    for frame in source.frames():
        if isinstance(frame, Frame):
            if position % stride == 0:
                frames.append(_resized(frame.image, options))
            position += 1
        if len(frames) == wanted:
            break
    if not frames:
        raise SourceError(f"{source.spec}: no usable frame to check the export with. Give another --check SOURCE.")
    return np.stack(frames), source.name if check is not None else "drawn"


def _drawn() -> Source:
    return DrawnDrive(0, DRAWN_FRAMES)


def require_free_place(out: Path) -> None:
    """Raise BundleError where `out` is something else than a bundle, an empty folder, or nothing yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        names = {entry.name for entry in out.iterdir()}
        is_bundle = names <= set(BUNDLE_FILES) and "geal-edge/bundle/" in (out / MANIFEST_FILE).read_text()
    except (OSError, ValueError):
        is_bundle = False
    if not is_bundle:
        raise BundleError(f"{out}: exists and is no bundle. Choose another --out, or remove it first.")


def _manifest(
    weights: Weights,
    options: ExportOptions,
    graph: bytes,
    npz: bytes,
    origin: str,
    expected: dict[str, npt.NDArray[Any]],
    parity: dict[str, Any],
) -> Manifest:
    outputs: dict[str, tuple[int, ...]] = {name: values.shape[1:] for name, values in expected.items()}
    if options.clusters:
        patches, dim = outputs["patch_features"]
        shapes = ((PRESETS[options.preset].clusters_per_frame, dim), (), (patches,))
        outputs |= dict(zip(CLUSTER_OUTPUTS, shapes, strict=True))
    return Manifest(
        producer=f"geal-edge {geal_edge.__version__}",
        model=_model(weights.geometry),
        weights={"digest": weights.digest, "origin": weights.origin, "untrained": weights.untrained},
        width=options.width,
        height=options.height,
        batch=options.batch,
        resize=options.resize,
        mean=options.mean,
        std=options.std,
        tap=options.tap,
        outputs={name: (options.batch or "N", *shape) for name, shape in outputs.items()},
        precision=options.precision,
        opset=OPSET,
        preset=options.preset,
        clusters=PRESETS[options.preset],
        graph_digest=digest(graph),
        reference_digest=digest(npz),
        reference_origin=origin,
        parity=parity,
    )


def _model(geometry: Geometry) -> dict[str, Any]:
    return {
        "name": geometry.name,
        "patch_size": geometry.patch_size,
        "embed_dim": geometry.embed_dim,
        "depth": geometry.depth,
        "heads": geometry.heads,
        "mlp_dim": geometry.mlp_dim,
        "trained_grid": list(geometry.trained_grid),
    }


def _npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """`np.savez_compressed` without the clock: the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _write(out: Path, graph: bytes, npz: bytes, manifest: Manifest) -> Bundle:
    """Complete or not at all: beside its place first, then renamed; an older bundle is replaced."""
    staging = out.with_name(f".{out.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    durable.make_folder(staging)
    for name, data in zip(BUNDLE_FILES, (graph, npz, manifest_bytes(manifest)), strict=True):
        durable.write_file(staging / name, data)
    durable.replace_folder(staging, out)
    return Bundle.open(out)
