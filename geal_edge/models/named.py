"""Weights that have a name: what they are, where their files lie, and how they get from there to here.

The journey: the cache of geal-edge, that of huggingface_hub, the hub, the official address. What is fetched is read and checked
before it gets its name in the cache, so that whatever lies there under one is whole.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD
from geal_edge.errors import DownloadError, UsageError, WeightsError, WeightsMismatch
from geal_edge.models.download import TIMEOUT_S, Watcher, download, file_sha256, only_one_writes
from geal_edge.models.vit import VIT_S16, Geometry, Weights
from geal_edge.models.weights import UNTRAINED, load_weights

HUB = "https://huggingface.co"
DINO_FILES = "https://dl.fbaipublicfiles.com/dino"
Triple = tuple[float, float, float]
_IS_DIGEST = re.compile("[0-9a-f]{64}").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A trained model that can be fetched, at either of two addresses, as files with the same numbers in them.

    repo, revision, file   on the hub
    hub_sha256             of that file, where it is known
    official_url           where its authors put it
    official_sha256        of that file, where it is known
    geometry               what its tensors must say of themselves
    mean, std              of the pixels, 0..1, as it was trained
    """

    name: str
    repo: str
    revision: str = "main"
    file: str = "model.safetensors"
    hub_sha256: str | None = None
    official_url: str
    official_sha256: str | None = None
    geometry: Geometry
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    licence: str = "Apache-2.0"

    def hub_url(self, endpoint: str) -> str:
        return f"{endpoint}/{self.repo}/resolve/{self.revision}/{self.file}"


_MODELS = (
    NamedModel(
        name="dino_vits16",
        repo="timm/vit_small_patch16_224.dino",
        official_url=f"{DINO_FILES}/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        geometry=VIT_S16,
    ),
    NamedModel(
        name="dino_vits8",
        repo="timm/vit_small_patch8_224.dino",
        official_url=f"{DINO_FILES}/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth",
        geometry=replace(VIT_S16, patch_size=8, trained_grid=(28, 28)),
    ),
    NamedModel(
        name="dino_vitb16",
        repo="timm/vit_base_patch16_224.dino",
        official_url=f"{DINO_FILES}/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        geometry=replace(VIT_S16, embed_dim=768, mlp_dim=3072),
    ),
    NamedModel(
        name="dino_vitb8",
        repo="timm/vit_base_patch8_224.dino",
        official_url=f"{DINO_FILES}/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth",
        geometry=replace(VIT_S16, embed_dim=768, mlp_dim=3072, patch_size=8, trained_grid=(28, 28)),
    ),
)
NAMED = {model.name: model for model in _MODELS}
DEFAULT = "dino_vits16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelves:
    """Where files are looked for and put.

    endpoint   the hub's address, without a slash at the end
    cache      our folder: cache/<model>/<sha256>.<suffix>
    hub_cache  huggingface_hub's folder, from which we only read
    offline    nothing may be fetched
    timeout_s  how long nothing may come: no answer from any of the addresses, no byte from the one that answered
    """

    endpoint: str = HUB
    cache: Path
    hub_cache: Path
    offline: bool = False
    timeout_s: float = TIMEOUT_S

    @classmethod
    def of(cls, environment: Mapping[str, str], *, offline: bool = False) -> "Shelves":
        """As HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and XDG_CACHE_HOME say; raises UsageError.

        Ours is geal-edge/ in $HF_HOME where that is set, else in ~/.cache ($XDG_CACHE_HOME).
        """
        endpoint = (environment.get("HF_ENDPOINT") or HUB).rstrip("/")
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"HF_ENDPOINT={endpoint}: expected an address such as {HUB}.")
        caches = Path(os.path.expanduser(environment.get("XDG_CACHE_HOME") or "~/.cache"))
        set_home = environment.get("HF_HOME")
        home = Path(os.path.expanduser(set_home)) if set_home else caches / "huggingface"
        return cls(
            endpoint=endpoint,
            cache=(home if set_home else caches) / "geal-edge",
            hub_cache=Path(os.path.expanduser(environment.get("HF_HUB_CACHE") or str(home / "hub"))),
            offline=offline or environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        )


def obtain_weights(spec: str, shelves: Shelves, *, sha256: str | None = None, watch: Watcher) -> Weights:
    """The weights that `spec` means: a name of NAMED, `untrained:SEED`, or a checkpoint file.

    sha256  hex digest that the file must have, wherever it comes from
    Raises what `load_weights` and `fetch` do, and UsageError for a digest that is none.
    """
    if sha256 is not None:
        sha256 = sha256.lower().removeprefix("sha256:")
        if not _IS_DIGEST(sha256):
            raise UsageError(
                f"--sha256 {sha256[:80]}: expected the 64 hexadecimal digits that `sha256sum FILE` prints."
            )
        if spec.startswith(UNTRAINED):
            raise UsageError(f"--sha256: {spec} is drawn here and has no file whose digest could be compared.")
    if spec in NAMED:
        return fetch(NAMED[spec], shelves, sha256=sha256, watch=watch)
    if re.fullmatch(r"[\w-]+", spec) and not os.path.exists(spec):
        raise WeightsError(
            f"{spec}: no such file, and no model of that name. Known by name are {', '.join(NAMED)}; "
            "else give a checkpoint file, or `untrained:SEED` for a trial."
        )
    if sha256 is not None and os.path.isfile(spec) and (found := file_sha256(Path(spec))) != sha256:
        raise WeightsError(f"{spec}: its sha256 is {found}, and {sha256} was asked for. Copy or download it again.")
    return load_weights(spec)


def fetch(model: NamedModel, shelves: Shelves, *, sha256: str | None = None, watch: Watcher) -> Weights:
    """The weights of `model`: from a cache, else from the hub, else from the official address.

    sha256  lower-case hex that the file must have, instead of the one that the table may know
    Raises DownloadError (its message has both addresses, and what to do), StorageError, MissingDependency.
    """
    addresses = (
        (model.hub_url(shelves.endpoint), sha256 or model.hub_sha256),
        (model.official_url, sha256 or model.official_sha256),
    )
    folder = shelves.cache / model.name
    if (weights := _cached(model, shelves, sha256, watch)) is not None:
        return weights
    if shelves.offline:
        raise DownloadError(
            f"{model.name} is in neither {folder} nor {shelves.hub_cache}"
            f"{'' if sha256 is None else f' with sha256 {sha256}'}, and may not be fetched (--offline or HF_HUB_OFFLINE).\n"
            + _by_hand([url for url, _ in addresses])
        )

    def check(path: Path, digest: str) -> Weights:
        return _read(model, path, digest)

    refused = []
    with only_one_writes(folder, watch) as another_was_first:
        if another_was_first and (weights := _cached(model, shelves, sha256, watch)) is not None:
            return weights
        for url, wanted in addresses:
            try:
                return download(
                    url,
                    folder,
                    check=check,
                    sha256=wanted,
                    timeout_s=shelves.timeout_s,
                    answer_s=shelves.timeout_s / len(addresses),  # where there is no way out, all of them stay silent
                    watch=watch,
                )
            except WeightsError as error:
                refused.append(f"{url}: {str(error).rstrip('.')}.")
                if len(refused) < len(addresses):
                    watch.warn(f"{refused[-1]} Trying the next address.")
    raise DownloadError(
        "\n  ".join([f"{model.name} could not be fetched.", *refused]) + "\n" + _by_hand([url for url, _ in addresses])
    )


def _by_hand(urls: list[str]) -> str:
    return f"Fetch {' or '.join(urls)} where there is a way out, copy it here, then: geal-edge export --weights FILE"


def _cached(model: NamedModel, shelves: Shelves, sha256: str | None, watch: Watcher) -> Weights | None:
    """From our cache, the newest first, else from huggingface_hub's; None where neither has a sound file."""
    for path in [*_ours(shelves.cache / model.name), *_hubs(model, shelves.hub_cache)]:
        try:
            digest = file_sha256(path)
            if _IS_DIGEST(path.stem) and path.stem != digest:
                watch.warn(f"{path} was changed or damaged since it was fetched: not used.")
            elif sha256 in (None, digest):
                return _read(model, path, digest)
        except (OSError, WeightsError) as error:
            watch.warn(f"not used, as it cannot be read: {error}")
    return None


def _ours(folder: Path) -> list[Path]:
    whole = [path for path in folder.glob("*.*") if _IS_DIGEST(path.stem)]
    return sorted(whole, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _hubs(model: NamedModel, hub_cache: Path) -> list[Path]:
    """What huggingface_hub, or timm through it, has fetched before."""
    if not (hub_cache / f"models--{model.repo.replace('/', '--')}").is_dir():
        return []  # the package takes a while to import
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return []
    found = try_to_load_from_cache(model.repo, model.file, cache_dir=hub_cache, revision=model.revision)
    return [Path(found)] if isinstance(found, str) else []


def _read(model: NamedModel, path: Path, digest: str) -> Weights:
    weights = load_weights(path)
    if weights.geometry != model.geometry:
        raise WeightsMismatch(
            f"{path}: a {weights.geometry.name} for {weights.geometry.trained_grid} patches, "
            f"not the {model.geometry.name} for {model.geometry.trained_grid} that {model.name} is"
        )
    return replace(weights, origin=f"{model.name} (file sha256 {digest})")
