"""Does this engine, on this device, answer what the weights say?

No engine is trusted before it has answered for itself: engines that build without a word and are wrong are common. The
bundle's reference frames have float64 answers, so nothing but the engine is needed to ask. With a source the engine also
selects from it, and its picks are measured in the clusters of ONNX Runtime on the CPU *on the same bundle*: this is what the
engine adds. What the bundle's own precision costs was measured against float32 when it was exported, and stands in its manifest.
"""

from collections.abc import Iterator
from statistics import median

import numpy as np

from geal_edge.errors import BackendError, FrameError, ParityError, UsageError
from geal_edge.models.bundle import Bundle, Manifest
from geal_edge.models.preprocess import resize
from geal_edge.runtime.backends import Arrays
from geal_edge.runtime.backends.choice import BackendName, Open
from geal_edge.runtime.backends.identity import identity
from geal_edge.runtime.clusterparity import compare_all
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.parity import Inside, ParityReport, tolerances
from geal_edge.runtime.pipeline import clusters_of_image
from geal_edge.runtime.records import REFERENCE_BACKEND, Verification
from geal_edge.runtime.reference import Reference, inside, read_reference
from geal_edge.runtime.selection_parity import COVER_TOLERANCE, selection_parity
from geal_edge.runtime.sources import Source
from geal_edge.runtime.spread import POOL_FRAMES, Frames, spread_frames
from geal_edge.runtime.threads import one_blas_thread


def verify(
    bundle: Bundle, name: BackendName, open_: Open, *, check: Source | None = None, watch: Observer
) -> Verification:
    """Ask an engine for what is known. Whether it passed is in the result, also where it could not answer.

    open_  a backend of a name, to be entered
    check  frames to select from, with this engine and with `REFERENCE_BACKEND`

    Raises MissingDependency, BundleError, SourceError, and UsageError where the reference is to be held against itself.
    """
    if check is not None and name == REFERENCE_BACKEND:
        raise UsageError(f"--check: picks are measured against those of {name}, so {name} cannot be checked with it.")
    if check is not None:
        identity(REFERENCE_BACKEND)  # that it is absent should not be found after the other has selected
    reference = read_reference(bundle)
    here = identity(name)
    within = inside(name, bundle.manifest)
    found: list[Rows | None] = []
    pool = None if check is None else _pool(check, bundle.manifest)
    try:
        with Encoder(bundle, open_(name)) as encoder:
            parity, frame_ms = _answer(encoder, reference, within, watch)
            if pool is not None and parity.passed:
                found = list(_clusters(encoder, pool, f"selecting with {name}", watch))
    except (BackendError, ParityError) as error:
        return Verification(backend=name, identity=here, inside=within, error=str(error))
    selection = None
    if check is not None and pool is not None and parity.passed:
        with Encoder(bundle, open_(REFERENCE_BACKEND)) as encoder:
            exact = _clusters(encoder, pool, f"selecting with {REFERENCE_BACKEND}", watch)
            both = [(a, b) for a, b in zip(exact, found, strict=True) if a is not None and b is not None]
        selection = selection_parity([a for a, _ in both], [b for _, b in both], tolerance=COVER_TOLERANCE[within])
    return Verification(
        backend=name,
        identity=here,
        inside=within,
        parity=parity,
        selection=selection,
        origin=None if check is None else check.name,
        frame_ms=frame_ms,
    )


def _answer(encoder: Encoder, reference: Reference, within: Inside, watch: Observer) -> tuple[ParityReport, float]:
    """How far its answers are off, and its median milliseconds; the first frame, which warms it up, is asked twice."""
    watch.begin("answering the reference frames", len(reference.frames))
    encoder.answer(reference.frames[0])
    found: list[Arrays] = []
    times = []
    for frame in reference.frames:
        found.append({name: values.copy() for name, values in encoder.answer(frame).items()})
        times.append(1e3 * encoder.backend.last_s)
        watch.advance()
    stacked = {name: np.stack([answer[name] for answer in found]) for name in found[0]}
    allowed = tolerances(within, encoder.bundle.manifest.tap, reference.answers)
    recipe = encoder.bundle.manifest.clusters
    return compare_all(reference.answers, stacked, allowed, recipe), median(times)


def _pool(check: Source, manifest: Manifest) -> Frames:
    return spread_frames(
        check, POOL_FRAMES, lambda image: resize(image, manifest.width, manifest.height, manifest.resize)
    )


def _clusters(encoder: Encoder, frames: Frames, what: str, watch: Observer) -> Iterator[Rows | None]:
    """Every frame's knowledge clusters; None where nothing in it could be judged."""
    watch.begin(what, len(frames))
    with one_blas_thread():
        for frame in frames:
            try:
                yield clusters_of_image(frame, encoder).rows
            except FrameError:
                yield None
            watch.advance()
