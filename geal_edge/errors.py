"""Every exception that geal-edge raises on purpose, and the exit code each one ends a command with.

    GealEdgeError                        1   never raised itself
    |- UsageError                        2   a call that cannot be meant: an option's value, a name, a combination
    |- MissingDependency                 3   a package or tool that this command needs is not installed
    |- WeightsError                      4   a checkpoint cannot be read
    |  |- UnsafeCheckpoint               5   ... because it asks to run code
    |  |- WeightsMismatch                6   ... because its tensors are not those of a DINO ViT
    |  |- DownloadError                 19   ... because it is not here and could not be fetched
    |- BundleError                       7   a bundle is absent, damaged, or not what its manifest says
    |- ParityError                       8   a graph or an engine does not compute what the weights say
    |- SourceError                       9   a source cannot be opened, or holds no frame at all
    |  |- SourceClash                   10   two different sources under one name in one spool
    |- FrameError                       11   one frame is unusable; caught by the pipeline, which counts it as lost
    |  |- FrameGated                 20   ... or as gated: it could be read, and a gate holds it back
    |- BackendError                     12   an engine cannot be started, or answered what it must not
    |  |- EngineNotVerified             21   ... because it has not answered for itself on this machine
    |  |- EngineStopped                 22   ... because it failed at work, and none may follow: the run is paused
    |- SpoolError                       13   a spool cannot be used
    |  |- SpoolLocked                   14   ... because another process is writing to it
    |  |- SpoolMismatch                 15   ... because it was filled with another budget, or from other settings
    |  |- SpoolDamaged                  16   ... because what is on disk contradicts itself
    |- FeatureSpaceMismatch             17   clusters of two feature spaces would be compared
    |- PrivacyError                     25   pictures would leave a spool without the hook that they are to pass
    |- StorageError                     18   the disk refused a write: read-only, failing
    |  |- DiskFull                      24   ... because it is full
    |- LimitExceeded                    26   `run` had more memory than it may for long, whatever it gave up: it is paused
    |- UploadError                      29   the far side did not take something, and trying again at once will not help
    |  |- UploadUnfinished              30   never raised: how `upload --once` ends where released frames are left
    |- MachineNotReady                  23   never raised: how `doctor` ends where something is broken
    |- ConfigError                      27   a configuration has faults; the message names all of them

`Interrupted` (130, Ctrl-C or SIGTERM) is not an error of ours or the user's: the work done so far is safe on disk.
A message says what, where, what was expected, and what to do. Lower libraries' exceptions become one of these at one
border (backend, transport, durable, sources), with `from`.
"""

import os
from typing import Literal

Library = Literal["Pillow", "OpenCV", "ONNX Runtime"]


class GealEdgeError(Exception):
    """The root: catch this to catch everything that geal-edge means to tell you."""

    exit_code = 1


class UsageError(GealEdgeError):
    """A call that cannot be meant: an option's value, an unknown name, a combination that excludes itself."""

    exit_code = 2


class MissingDependency(GealEdgeError):
    """A package that this command needs is not installed; the message holds the command that installs it."""

    exit_code = 3


class WeightsError(GealEdgeError):
    """A checkpoint file cannot be read: absent, truncated, or of no known format."""

    exit_code = 4


class UnsafeCheckpoint(WeightsError):
    """A checkpoint's pickle names a global that does more than rebuild a tensor; nothing of it was executed."""

    exit_code = 5


class WeightsMismatch(WeightsError):
    """A checkpoint can be read, but its tensors are not exactly those of a DINO ViT."""

    exit_code = 6


class DownloadError(WeightsError):
    """Weights that have a name are not in the cache and could not be fetched; the message holds the exact addresses."""

    exit_code = 19


class BundleError(GealEdgeError):
    """A bundle is absent, damaged, or not what its manifest says."""

    exit_code = 7


class ParityError(GealEdgeError):
    """A graph does not compute what the weights say, so no bundle was written; or an engine does not, so it is not verified."""

    exit_code = 8


class SourceError(GealEdgeError):
    """A source cannot be opened, or holds no frame at all."""

    exit_code = 9


class SourceClash(SourceError):
    """Two different sources would have one name in one spool."""

    exit_code = 10


class FrameError(GealEdgeError):
    """One frame is unusable. The pipeline catches it: an event and a counter, never a stop.

    `reason` is the short key under which the frame is counted as lost (`empty`, `truncated`, `too_large`, ...).
    """

    exit_code = 11

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class FrameGated(FrameError):
    """A frame that could be read and is held back by a gate. `reason`: `dark`, `frozen`, `fleeting`, ..."""

    exit_code = 20


class BackendError(GealEdgeError):
    """An engine cannot be started, or answered with other names, dtypes, shapes or values than it promised."""

    exit_code = 12


class EngineNotVerified(BackendError):
    """An engine has not answered the reference frames on this machine; the message holds the command that lets it."""

    exit_code = 21


class EngineStopped(BackendError):
    """An engine failed at work and none is left, or none may follow. The run is paused: nothing of its frame is counted."""

    exit_code = 22


class SpoolError(GealEdgeError):
    """A spool cannot be used."""

    exit_code = 13


class SpoolLocked(SpoolError):
    """Another process is writing to this spool."""

    exit_code = 14


class SpoolMismatch(SpoolError):
    """This spool was filled with another budget, bundle or source option than the one now asked for."""

    exit_code = 15


class SpoolDamaged(SpoolError):
    """What is on disk contradicts itself; `check` lists how."""

    exit_code = 16


class FeatureSpaceMismatch(GealEdgeError):
    """Clusters of two feature spaces would be compared; the message names both."""

    exit_code = 17


class PrivacyError(GealEdgeError):
    """Pictures of a spool are to pass a hook before they leave it, and nobody has said how it is run."""

    exit_code = 25


class StorageError(GealEdgeError):
    """The disk refused a write: read-only, failing. A bad disk stops the service; nothing acknowledged is lost."""

    exit_code = 18


class DiskFull(StorageError):
    """The disk is full, or what this user may have of it is used up."""

    exit_code = 24


class LimitExceeded(GealEdgeError):
    """A limit that was set for this process was exceeded for long, and lowering the rate did not help. The run is paused."""

    exit_code = 26


class UploadError(GealEdgeError):
    """The far side did not take something.

    outcome  `retry`: later, all of it; `set_aside`: go on without this unit; `stop`: a person must change something
    reason   a short, stable key: `timeout`, `unreachable`, `forbidden`, ... (docs/upload.md)
    """

    exit_code = 29

    def __init__(self, outcome: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.reason = reason


class UploadUnfinished(UploadError):
    """Released frames are still here; what was said before tells why."""

    exit_code = 30


class MachineNotReady(GealEdgeError):
    """Something that geal-edge needs is broken on this machine; `doctor` has said what."""

    exit_code = 23


class ConfigError(GealEdgeError):
    """A configuration has faults; the message names every one, with its place, its value and what is allowed."""

    exit_code = 27


class Interrupted(GealEdgeError):
    """Ctrl-C or SIGTERM: the frame in hand was finished and the spool is sound."""

    exit_code = 130


JETSON = "/etc/nv_tegra_release"
"""Where this file is, this is a Jetson."""

_ON_JETSON: dict[Library, str] = {
    "Pillow": "Install it with: pip install 'geal-edge[jetpack6]'",
    "OpenCV": "JetPack's own has GStreamer, and any other hides it: apt-get install python3-opencv, "
    "in an environment made with --system-site-packages (docs/targets/)",
    "ONNX Runtime": "NVIDIA's own index has one with kernels for a Jetson (docs/targets/); for its CPUs alone: "
    "pip install onnxruntime",
}


def missing_library(use: str, library: Library, error: ImportError) -> MissingDependency:
    """What to raise where a library of the extra `cpu` cannot be imported: what for, why not, and what brings it here.

    use  what needs the library, with its name at the end: "Images are read with Pillow"
    """
    why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
    return MissingDependency(f"{use}, which {why}. {how_to_install(library)}")


def how_to_install(library: Library) -> str:
    """On a Jetson the extra `cpu` would hide JetPack's OpenCV behind one without GStreamer."""
    return _ON_JETSON[library] if os.path.exists(JETSON) else "Install it with: pip install 'geal-edge[cpu]'"
