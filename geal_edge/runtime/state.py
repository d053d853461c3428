"""Where a machine stores what it found out: verification records and engine caches of bundles, what was read from far sides.

A bundle is never written to, since a vehicle's root may be read-only, and what holds on one machine does not on another. So
there is a folder of the machine's own:

    $GEAL_EDGE_STATE, else $XDG_STATE_HOME/geal-edge, else ~/.local/state/geal-edge
      bundles/<64 hex digits of the bundle's digest>/
        verify-<backend>.json           how that engine answered (verify.py)
        ort-tensorrt-<8 hex digits>/    ONNX Runtime's cache of TensorRT engines, for one version on one GPU
        <module>-<capability>-batch<n>.plan, .json   a TensorRT plan and whom it is for (plan.py)
      timing-tensorrt-<version>.cache   TensorRT's own, for builds
      farside/<32 hex digits of a URL's digest>.db  what was read from a far side (farside/cache.py)

All of it may be deleted at any time: verification and caches are made anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state folder; nothing of it need exist yet."""

    folder: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "State":
        """Where the environment says that state belongs.

        >>> State.of({"XDG_STATE_HOME": "/var/lib"}).folder.as_posix()
        '/var/lib/geal-edge'
        >>> State.of({"GEAL_EDGE_STATE": "/data/engines", "XDG_STATE_HOME": "/var/lib"}).folder.as_posix()
        '/data/engines'
        """
        if own := environ.get("GEAL_EDGE_STATE"):
            return cls(folder=Path(own))
        base = environ.get("XDG_STATE_HOME")
        return cls(folder=(Path(base) if base else Path.home() / ".local" / "state") / "geal-edge")

    def of_bundle(self, digest: str) -> Path:
        """The folder of the bundle with this digest (`sha256:...`)."""
        return self.folder / "bundles" / digest.removeprefix("sha256:")
