"""A bundle's reference frames with their float64 answers, and how far an engine's own may be from them."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.errors import BundleError
from geal_edge.models.bundle import CLUSTER_OUTPUTS, Bundle, Manifest
from geal_edge.runtime.backends.choice import INSIDE, BackendName
from geal_edge.runtime.parity import Inside, looser
from geal_edge.runtime.spread import Frames

MAX_BYTES = 1 << 31
"""Far more than eight frames and what is answered to them take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A bundle's reference frames and what must be answered to them.

    frames   (n, H, W, 3) uint8 at the input size
    answers  output name -> float64 (n, ...); none for clusters, which are held against the host's (clusterparity.py)
    """

    frames: Frames
    answers: Mapping[str, npt.NDArray[np.float64]]


def read_reference(bundle: Bundle) -> Reference:
    """What reference.npz holds. Raises BundleError where that is not what the manifest says."""
    try:
        with zipfile.ZipFile(bundle.reference) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"it says that it holds more than {MAX_BYTES} bytes")
        with np.load(bundle.reference, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    # An array that says that it is larger than all memory is a MemoryError.
    except (ValueError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise BundleError(f"{bundle.reference}: cannot be read ({error}). Export the bundle again.") from error
    m = bundle.manifest
    frames = arrays.pop("image", np.empty(0, np.uint8))
    shapes = {name: values.shape[1:] for name, values in arrays.items()}
    promised = {name: tuple(shape[1:]) for name, shape in m.outputs.items() if name not in CLUSTER_OUTPUTS}
    if frames.dtype != np.uint8 or frames.shape[1:] != (m.height, m.width, 3) or shapes != promised:
        raise BundleError(
            f"{bundle.reference}: has frames {list(frames.shape)} and answers {shapes}, the manifest promises "
            f"{[m.height, m.width, 3]} and {promised}. Export the bundle again."
        )
    return Reference(frames=frames, answers=arrays)


def inside(name: BackendName, manifest: Manifest) -> Inside:
    """What this engine computes this bundle in: its graph's precision, or the lesser one that the engine was told to use."""
    precision: Any = manifest.precision
    return looser(precision, INSIDE.get(name, precision))
