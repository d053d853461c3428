"""A video file as a source: frames in decode order, with the container's own times.

Read through OpenCV's FFmpeg backend, front to back and never by a seek (OpenCV's seeks land on other frames in other
versions). What was measured on OpenCV 4.10 and 5.0, on real drives and on damaged copies of them:

Time. After `grab()`, CAP_PROP_POS_MSEC is the presentation time of the frame just grabbed, counted from the start of the
stream; variable frame rates and B-frames come out right. OpenCV 4.10 gives a decode time (below zero) where the true time is
exactly 0: it is taken as 0. A stamp that does not move forward (one frame of one real drive has such a stamp; files
without stamps have nothing else) is replaced by the time before it plus one frame at the file's rate.

Loss. `grab()` says False at the end and at a decode error alike. So a False is not believed: the next frames are asked
for, and where one comes, each False before it was one lost frame. Where none comes any more, the frames missing from
what the container promised are lost. Only MP4/MOV and AVI promise a number (see container.py); Matroska, MPEG-TS and
fragmented MP4 hold an estimate, so there a damaged *tail* looks like the end and is not reported. Where some samples are
stored but not shown, up to 2 frames may be missing at the end unreported: an edit list's times are rounded. FFmpeg
conceals some damage by guessing pixels: such frames are not lost, only ugly. Lost frames have no capture time: nobody
knows it.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from types import ModuleType
from typing import Any

from geal_edge.errors import SourceError, how_to_install, missing_library
from geal_edge.runtime.frame import Frame, Image, LostFrame
from geal_edge.runtime.sources.container import promised_frames, read_moov
from geal_edge.runtime.sources.images import own_name
from geal_edge.runtime.sources.rate import Rate

ENDINGS = frozenset(
    ".mp4 .m4v .mov .3gp .avi .mkv .webm .ts .mts .m2ts .mpg .mpeg .vob .wmv .asf .flv .ogv .h264 .h265 .hevc".split()
)

_FAILURES_AT_THE_END = 1000
"""Failed reads in a row that are the end where the container promises nothing. After damage a decoder may refuse every
frame up to the next key frame, and those are up to a few hundred apart."""

_HIDDEN_TOLERANCE = 2
_TURNS = {90: "ROTATE_90_CLOCKWISE", 180: "ROTATE_180", 270: "ROTATE_90_COUNTERCLOCKWISE"}
_FINGERPRINT_BYTES = 1024 * 1024


class VideoSource:
    """The frames of one video file.

    name   defaults to the file's name with its ending
    fps    look at so many frames a second at most (see Rate); the others are not seen at all, `frame_index` counts them

    Raises SourceError where the file is absent, empty, damaged beyond opening or holds no frame that can be decoded,
    MissingDependency where OpenCV is not installed, UsageError for a senseless rate.
    """

    def __init__(self, path: Path, *, name: str | None = None, fps: float | None = None) -> None:
        self.path = path
        self.name = name or own_name(path)
        self.spec = os.path.abspath(path)
        self.kind = "video"
        self.fps = fps
        self._cv2 = import_cv2()
        rate = Rate(fps)
        capture = self._open()
        try:
            told = _count(capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
            self._native_fps = _sane_rate(capture.get(self._cv2.CAP_PROP_FPS))
            self._promised, self._tolerance = self._promise()
            images = (self._image(capture) for readable in self._reads(capture) if readable)
            first = next((image for image in images if image is not None), None)
        finally:
            capture.release()
        if first is None:
            raise SourceError(
                f"{path}: not one frame can be decoded. The file is damaged, or in a format that this FFmpeg does not know"
            )
        self.size: tuple[int, int] | None = (first.shape[1], first.shape[0])
        expected = self._promised or told
        self._frame_count = rate.count(expected, self._native_fps) if expected else None

    def fingerprint(self) -> str:
        """Size and a digest of both ends: reading all of a long drive would take as long as selecting from it."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                digest = hashlib.sha256(file.read(_FINGERPRINT_BYTES))
                file.seek(max(0, size - _FINGERPRINT_BYTES))
                digest.update(file.read(_FINGERPRINT_BYTES))
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        return f"video:{size}:{digest.hexdigest()}"

    @property
    def frame_count(self) -> int | None:
        return self._frame_count

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame]:
        rate = Rate(self.fps)
        clock = _Clock(1e9 / self._native_fps)
        capture = self._open()
        try:
            for index, readable in enumerate(self._reads(capture)):
                time_ns = clock.at(capture.get(self._cv2.CAP_PROP_POS_MSEC)) if readable else clock.lost()
                if not rate.takes(time_ns) or index <= after:
                    continue  # grabbed only: what nobody looks at is not converted to pixels
                image = self._image(capture) if readable else None
                if image is None:
                    yield self._lost(index)
                    continue
                yield Frame(
                    id=f"{self.name}#{index}",
                    source=self.name,
                    frame_index=index,
                    capture_time_ns=time_ns,
                    image=image,
                )
        finally:
            capture.release()

    def _reads(self, capture: Any) -> Iterator[bool]:
        """One answer per frame of the file, in order: True where it has just been grabbed, False where it is lost."""
        position = 0
        while True:
            failures = 0
            while not capture.grab():
                failures += 1
                if failures >= max(_FAILURES_AT_THE_END, self._promised - position):
                    missing = self._promised - position
                    yield from repeat(False, missing if missing > self._tolerance else 0)
                    return
            yield from repeat(False, failures)
            yield True
            position += failures + 1

    def _image(self, capture: Any) -> Image | None:
        """The grabbed frame, uint8 (H, W, 3) RGB, upright; None where it cannot be converted."""
        try:
            done, picture = capture.retrieve()
            if not done or picture is None or picture.ndim != 3:
                return None
            image: Image = self._cv2.cvtColor(picture, self._cv2.COLOR_BGR2RGB)
            # Turned by us and not by OpenCV: 4.11 alone leaves that out unless told to.
            turn = _TURNS.get(round(capture.get(self._cv2.CAP_PROP_ORIENTATION_META)))
            if turn is not None:
                image = self._cv2.rotate(image, getattr(self._cv2, turn))
        except self._cv2.error:
            return None
        return image

    def _lost(self, index: int) -> LostFrame:
        return LostFrame(
            id=f"{self.name}#{index}",
            source=self.name,
            frame_index=index,
            capture_time_ns=None,
            reason="undecodable",
            detail=f"{self.path.name}: frame {index} is in the file's table of contents, but cannot be decoded.",
        )

    def _open(self) -> Any:
        path = self.path
        try:
            if path.stat().st_size == 0:
                raise SourceError(f"{path}: the file is empty (0 bytes), a video was expected")
            with path.open("rb") as file:
                head = file.read(12)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
        if self._cv2.CAP_FFMPEG not in self._cv2.videoio_registry.getBackends():
            raise SourceError(
                f"{path}: this OpenCV ({self._cv2.__version__}) was built without FFmpeg and reads no video files. "
                f"One that does: {how_to_install('OpenCV')}"
            )
        if self.spec != os.fsencode(self.spec).decode("utf-8", "ignore"):
            # OpenCV would not raise an error but end the process.
            raise SourceError(f"{own_name(path)}: OpenCV opens no path that is not UTF-8. Rename it")
        # The absolute path: FFmpeg would take a relative one like `concat:a.mp4` for an address.
        capture = self._cv2.VideoCapture(self.spec, self._cv2.CAP_FFMPEG)
        if capture.isOpened():
            capture.set(self._cv2.CAP_PROP_ORIENTATION_AUTO, 0)
            return capture
        capture.release()
        if head[4:8] == b"ftyp" and read_moov(path) is None:
            raise SourceError(
                f"{path}: begins as an MP4, but its table of contents (moov) is missing or damaged, as after a power cut "
                "while recording. A repair tool for MP4 files may bring it back"
            )
        raise SourceError(f"{path}: not a video that FFmpeg can open, or one without a video stream")

    def _promise(self) -> tuple[int, int]:
        """How many frames the container promises (0: it does not say), and how many may be missing at the end."""
        try:
            promise = promised_frames(self.path)
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if promise is None:
            return 0, 0
        shown, stored = promise
        return shown, 0 if shown == stored else _HIDDEN_TOLERANCE


class _Clock:
    """Turns the container's stamps into nanoseconds from the first frame that only move forward."""

    def __init__(self, period_ns: float) -> None:
        self._period_ns = period_ns
        self._start_ns: float | None = None
        self._last_ns = -period_ns
        self._lost = 0

    def at(self, stamp_ms: float) -> int:
        stamp_ns = stamp_ms * 1e6
        if self._start_ns is None:
            # An AVI with B-frames starts at 80 ms. Where the first frames are lost, the stream's own start is all there is.
            self._start_ns = stamp_ns if stamp_ns > 0 and not self._lost else 0.0
        time_ns = stamp_ns - self._start_ns
        if not self._last_ns < time_ns < math.inf or time_ns < 0:
            time_ns = self._last_ns + (self._lost + 1) * self._period_ns
        self._last_ns, self._lost = time_ns, 0
        return round(time_ns)

    def lost(self) -> int:
        """Where a lost frame would be at an even rate: near enough to say which slot of `--fps` it was in."""
        self._lost += 1
        return round(self._last_ns + self._lost * self._period_ns)


def _sane_rate(fps: float) -> float:
    return fps if 0.1 <= fps <= 1000.0 else 30.0


def _count(told: float) -> int:
    """OpenCV's frame count; 0 where it is none (streams without a length give huge or negative numbers)."""
    return int(told) if 0.0 < told < 1e9 else 0


def import_cv2() -> ModuleType:
    # FFmpeg would write its own lines between ours, for every damaged frame. Both are read at OpenCV's first use.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        import cv2
    except ImportError as error:
        raise missing_library("Video files are read with OpenCV", "OpenCV", error) from error
    if os.environ["OPENCV_LOG_LEVEL"] == "SILENT":  # said again: someone else may have imported cv2 before
        (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)  # 4.x, then 5.x
    return cv2
