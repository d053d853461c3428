"""A checkpoint becomes a bundle: graph, check against float64, reference frames, manifest. Nothing is written that failed."""

import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import geal_edge
from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD, PRESETS, ResizeFilter
from geal_edge.errors import BundleError, ParityError, SourceError
from geal_edge.export.graph import OPSET, build_graph, serialize
from geal_edge.export.parity import FLOAT32, ParityReport, Tolerances, compare, reference_forward
from geal_edge.models.bundle import GRAPH_FILE, MANIFEST_FILE, REFERENCE_FILE, Bundle, Manifest, digest, manifest_bytes
from geal_edge.models.preprocess import resize
from geal_edge.models.vit import Geometry, Weights
from geal_edge.runtime import durable
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.sources import Source
from geal_edge.runtime.sources.drawn import DrawnDrive

BUNDLE_FILES = (GRAPH_FILE, REFERENCE_FILE, MANIFEST_FILE)
REFERENCE_FRAMES = 8
RAW_RELATIVE_ERROR = 1e-4
DRAWN_FRAMES = 64  # the drive from which they are taken where the user names none
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What an export can choose.

    width, height  input size in pixels, multiples of the patch size
    batch          fixed batch size, or None for any
    cls_embedding  with that output (for the global Core-Set baseline)
    tap            "norm": patch features after the final LayerNorm (the authors' code), "raw": before it
    """

    width: int = 224
    height: int = 224
    batch: int | None = None
    cls_embedding: bool = True
    tap: Literal["norm", "raw"] = "norm"
    resize: ResizeFilter = "pil_bicubic"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    preset: str = "geal"


def export_bundle(
    weights: Weights, out: Path, options: ExportOptions, *, check: Source | None = None, watch: Observer
) -> tuple[Bundle, ParityReport]:
    """Build the graph, let ONNX Runtime answer the reference frames, and write the bundle if the answers hold.

    check  where the reference frames come from; None = drawn ones
    Raises ParityError where the graph computes something else than the weights say; UsageError, BundleError or
    StorageError where the bundle cannot be made.
    """
    out = Path(os.path.abspath(out))  # "." has no name to put a bundle beside
    require_free_place(out)
    weights.geometry.grid(options.width, options.height)  # a wrong size should not cost a minute first
    frames, origin = reference_frames(check, options)
    watch.begin("building the graph", None)
    graph = serialize(
        build_graph(
            weights,
            width=options.width,
            height=options.height,
            mean=options.mean,
            std=options.std,
            batch=options.batch,
            cls_embedding=options.cls_embedding,
            tap=options.tap,
        )
    )
    answers = _answers(graph, frames, options.batch)
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
    expected = {name: np.stack(values) for name, values in reference.items()}
    parity = compare(expected, answers, tolerances(options, expected))
    if not parity.passed:
        raise ParityError(
            f"the exported graph does not compute what the weights say, so no bundle was written:\n{parity}\n"
            "Please report this with the checkpoint's origin and the size."
        )
    npz = _npz({"image": frames, **expected})
    manifest = _manifest(weights, options, graph, npz, origin, expected, parity)
    return _write(out, graph, npz, manifest), parity


def reference_frames(check: Source | None, options: ExportOptions) -> tuple[npt.NDArray[np.uint8], str]:
    """(uint8 (8, H, W, 3) at the input size, their origin's name), spread evenly over the source; fewer from a short one.

    Raises SourceError where the source has no usable frame.
    """
    source: Source = check if check is not None else DrawnDrive(0, DRAWN_FRAMES)
    wanted = REFERENCE_FRAMES
    stride = max(1, (source.frame_count or wanted) // wanted)
    frames = []
    position = 0
    for frame in source.frames():
        if isinstance(frame, Frame):
            if position % stride == 0:
                frames.append(resize(frame.image, options.width, options.height, options.resize))
            position += 1
        if len(frames) == wanted:
            break
    if not frames:
        raise SourceError(f"{source.spec}: no usable frame to check the export with. Give another --check SOURCE.")
    return np.stack(frames), source.name if check is not None else "drawn"


def tolerances(options: ExportOptions, expected: Mapping[str, npt.NDArray[np.floating]]) -> Tolerances:
    """float32's. Raw features have no LayerNorm to bound them, so their error is held against their own size."""
    if options.tap == "norm":
        return FLOAT32
    largest = float(np.abs(expected["patch_features"]).max())
    return replace(FLOAT32, feature_error=max(FLOAT32.feature_error, RAW_RELATIVE_ERROR * largest))


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


def _answers(graph: bytes, frames: npt.NDArray[np.uint8], batch: int | None) -> dict[str, npt.NDArray[Any]]:
    """ONNX Runtime's outputs for all frames, with the graph as it will lie in the bundle."""
    step = batch or 1
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / GRAPH_FILE
        path.write_bytes(graph)
        with OrtCpu(path) as backend:
            for begin in range(0, len(frames), step):
                group = frames[begin : begin + step]
                padded = np.concatenate([group, np.repeat(group[-1:], step - len(group), axis=0)])
                for name, values in backend.run({"image": padded}).items():
                    parts.setdefault(name, []).append(values[: len(group)].copy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _manifest(
    weights: Weights,
    options: ExportOptions,
    graph: bytes,
    npz: bytes,
    origin: str,
    expected: dict[str, npt.NDArray[Any]],
    parity: ParityReport,
) -> Manifest:
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
        outputs={name: (options.batch or "N", *values.shape[1:]) for name, values in expected.items()},
        precision="fp32",
        opset=OPSET,
        preset=options.preset,
        clusters=PRESETS[options.preset],
        graph_digest=digest(graph),
        reference_digest=digest(npz),
        reference_origin=origin,
        parity=parity.as_dict(),
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
