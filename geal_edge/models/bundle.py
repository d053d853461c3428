"""The bundle: a folder that a vehicle receives, and the only thing that the runtime believes about a model.

    BUNDLE/
      model.onnx      the graph (DESIGN: uint8 frames in, patch features and CLS attention out)
      manifest.json   everything that the runtime needs to know; `schema` names its version
      reference.npz   8 frames and their float64 answers: a device can check an engine without ONNX Runtime or onnx

Nothing is ever written into a bundle after export. Its digest is that of manifest.json, which holds the digests of the
other two. The *feature space* id says which clusters may be compared: precision and engine are not in it, the filter that
resizes is.
"""

import hashlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geal_edge.config import RESIZE_FILTERS, ClusterConfig, ResizeFilter
from geal_edge.errors import BundleError, UsageError
from geal_edge.models.jsontext import parse_json

SCHEMA = "geal-edge/bundle/1"
GRAPH_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
REFERENCE_FILE = "reference.npz"
CLUSTER_OUTPUTS = ("clusters", "cluster_count", "patch_cluster")
"""What a graph puts out beside its features where distillation and K-Means are in it."""
_DAMAGED = "The bundle is damaged or cut off: copy it, or export it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """manifest.json as values. All digests are `sha256:<64 hex digits>`.

    model      name, patch_size, embed_dim, depth, heads, mlp_dim, trained_grid
    weights    digest, origin, untrained
    width, height      input size in pixels
    batch      fixed batch size, or None for any
    resize, mean, std  how a frame becomes the graph's input (mean and std are applied inside the graph)
    tap        "norm" or "raw": what patch_features are
    outputs    output name -> shape with N for the batch, in the graph's order
    precision  of the graph's inside; inputs and outputs are uint8 and float32 always (counts and row numbers int32)
    clusters   the preset's recipe from tokens to knowledge clusters
    parity     the report of the check against float64 that export made
    """

    producer: str
    model: Mapping[str, Any]
    weights: Mapping[str, Any]
    width: int
    height: int
    batch: int | None
    resize: ResizeFilter
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tap: str
    outputs: Mapping[str, tuple[str | int, ...]]
    precision: str
    opset: int
    preset: str
    clusters: ClusterConfig
    graph_digest: str
    reference_digest: str
    reference_origin: str
    parity: Mapping[str, Any]

    @property
    def untrained(self) -> bool:
        return bool(self.weights["untrained"])

    @property
    def clusters_in_graph(self) -> bool:
        """Whether the graph itself distills and groups, by the recipe `clusters`."""
        return CLUSTER_OUTPUTS[0] in self.outputs

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches; row-major order of every patch array."""
        return self.height // int(self.model["patch_size"]), self.width // int(self.model["patch_size"])

    @property
    def feature_space(self) -> str:
        """Id of the space in which this bundle's clusters live."""
        return feature_space(self, self.clusters)

    def as_json(self) -> dict[str, Any]:
        """The manifest as it stands on disk."""
        return {
            "schema": SCHEMA,
            "producer": self.producer,
            "model": dict(self.model),
            "weights": dict(self.weights),
            "input": {
                "name": "image",
                "width": self.width,
                "height": self.height,
                "batch": self.batch,
                "resize": self.resize,
                "mean": list(self.mean),
                "std": list(self.std),
            },
            "tap": self.tap,
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "precision": self.precision,
            "preset": self.preset,
            "clusters": self.clusters.as_dict(),
            "graph": {"file": GRAPH_FILE, "digest": self.graph_digest, "opset": self.opset},
            "reference": {
                "file": REFERENCE_FILE,
                "digest": self.reference_digest,
                "origin": self.reference_origin,
            },
            "parity": dict(self.parity),
            "feature_space": self.feature_space,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: Path) -> "Manifest":
        """Read and check; raises BundleError naming the key that is absent or wrong."""
        if data.get("schema") != SCHEMA:
            raise BundleError(
                f"{where}: schema is {data.get('schema')!r}, this version reads {SCHEMA!r}. "
                "Export the bundle again with `geal-edge export`, or use the version that wrote it."
            )
        try:
            given, graph, reference = data["input"], data["graph"], data["reference"]
            model = data["model"]
            manifest = cls(
                producer=str(data["producer"]),
                model={key: model[key] for key in _MODEL_KEYS},
                weights={key: data["weights"][key] for key in ("digest", "origin", "untrained")},
                width=int(given["width"]),
                height=int(given["height"]),
                batch=None if given["batch"] is None else int(given["batch"]),
                resize=given["resize"],
                mean=_triple(given["mean"]),
                std=_triple(given["std"]),
                tap=str(data["tap"]),
                outputs={str(name): tuple(shape) for name, shape in data["outputs"].items()},
                precision=str(data["precision"]),
                opset=int(graph["opset"]),
                preset=str(data["preset"]),
                clusters=ClusterConfig(**data["clusters"]),
                graph_digest=str(graph["digest"]),
                reference_digest=str(reference["digest"]),
                reference_origin=str(reference["origin"]),
                parity=dict(data["parity"]),
            )
            space = manifest.feature_space  # no number that JSON does not know has a digest
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, UsageError) as error:
            raise BundleError(
                f"{where}: not a manifest that can be believed ({error!r}). Export the bundle again."
            ) from error
        patch = manifest.model["patch_size"]
        if not isinstance(patch, int) or patch < 1 or manifest.width % patch or manifest.height % patch:
            raise BundleError(
                f"{where}: input {manifest.width}x{manifest.height} is no multiple of patch size {patch!r}."
            )
        if manifest.resize not in RESIZE_FILTERS:
            raise BundleError(
                f"{where}: resize filter {manifest.resize!r} is unknown, expected {' or '.join(RESIZE_FILTERS)}."
            )
        if data.get("feature_space") != space:
            raise BundleError(
                f"{where}: feature_space is {data.get('feature_space')!r}, but its own settings give "
                f"{space!r}. The file was edited; export the bundle again."
            )
        return manifest


def output_dtype(name: str) -> "np.dtype[Any]":
    """Of an output of that name: float32, but int32 for what counts clusters or names one."""
    return np.dtype(np.int32 if name in ("cluster_count", "patch_cluster") else np.float32)


_MODEL_KEYS = ("name", "patch_size", "embed_dim", "depth", "heads", "mlp_dim", "trained_grid")


def feature_space(manifest: Manifest, clusters: ClusterConfig) -> str:
    """`fs-<16 hex>` over everything that decides what a cluster is, short of precision and engine (DESIGN section 5).

    `clusters` may differ from the bundle's own preset: other knobs at `select` are another space.
    """
    # A seed that is never drawn from decides nothing.
    draws = clusters.kmeans_start == "random" or clusters.downsampling in ("A2", "A3")
    seed = {} if draws else {"kmeans_seed": None}
    decides = {**_decides_tokens(manifest), "clusters": {**clusters.as_dict(), **seed}}
    return "fs-" + hashlib.sha256(canonical_json(decides)).hexdigest()[:16]


def token_space(manifest: Manifest) -> str:
    """`ts-<16 hex>` over the part of the feature space that no recipe decides: what stored features must agree with."""
    return "ts-" + hashlib.sha256(canonical_json(_decides_tokens(manifest))).hexdigest()[:16]


def _decides_tokens(manifest: Manifest) -> dict[str, Any]:
    return {
        "weights": manifest.weights["digest"],
        "tap": manifest.tap,
        "size": [manifest.width, manifest.height],
        "resize": manifest.resize,
        "mean": list(manifest.mean),
        "std": list(manifest.std),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened bundle: its manifest was read and its graph's bytes are those that export wrote.

    path    the folder
    digest  `sha256:...` of manifest.json: the bundle's identity in spools, status and logs
    """

    path: Path
    manifest: Manifest
    digest: str

    @property
    def graph(self) -> Path:
        return self.path / GRAPH_FILE

    @property
    def reference(self) -> Path:
        return self.path / REFERENCE_FILE

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Open a bundle and check the digests of its files.

        Raises BundleError where it is absent, damaged, or of another schema.
        """
        where = path / MANIFEST_FILE
        try:
            text = where.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path}: no bundle here ({MANIFEST_FILE}: {error.strerror}). "
                f"Make one with `geal-edge export --out {path}`."
            ) from error
        try:
            data = parse_json(text)
        except ValueError as error:
            raise BundleError(f"{where}: not JSON ({error}). {_DAMAGED}") from error
        if not isinstance(data, dict):
            raise BundleError(f"{where}: expected an object at the top. {_DAMAGED}")
        manifest = Manifest.from_json(data, where)
        for name, expected in ((GRAPH_FILE, manifest.graph_digest), (REFERENCE_FILE, manifest.reference_digest)):
            try:
                found = file_digest(path / name)
            except OSError as error:
                raise BundleError(f"{path / name}: {error.strerror}. {_DAMAGED}") from error
            if found != expected:
                raise BundleError(
                    f"{path / name}: digest is {found[:19]}..., the manifest says {expected[:19]}... {_DAMAGED}"
                )
        if _has_outer_data(path / GRAPH_FILE):
            raise BundleError(
                f"{path / GRAPH_FILE}: keeps tensors in other files, which no digest covers. `geal-edge export` makes none such: "
                "export the bundle again."
            )
        return cls(path=path, manifest=manifest, digest=digest(text))


def manifest_bytes(manifest: Manifest) -> bytes:
    """manifest.json as it lies on disk; the bundle's digest is that of these bytes."""
    return json.dumps(manifest.as_json(), indent=1, ensure_ascii=False).encode() + b"\n"


def canonical_json(value: object) -> bytes:
    """One spelling per value, for digests: sorted keys, no blanks, shortest floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return "sha256:" + sha.hexdigest()


def _has_outer_data(graph: Path) -> bool:
    """Whether an ONNX file may name other files: `location` is the key under which it would. The bytes are looked at, since there
    may be no onnx here; in weights they stand by chance once in 10^11 files."""
    if not graph.stat().st_size:
        return False
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"location") >= 0


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c
