"""Recorded ROS data as a source: rosbag2 folders, .mcap, .db3 and ROS 1 .bag files.

Frames come in the order in which their messages were logged, of all chosen topics together; `frame_index` counts those.
`capture_time_ns` is the message's own stamp (when the camera took it), or the log time where that is 0. The clocks of
cameras may differ from the recorder's, so the stamps of two topics, and rarely of one, can step back where log time does not.

The id is `<source>#<topic>@<capture_time_ns>`; the second frame of a topic with one and the same stamp gets `.2`, and so
on. For that, and for `--fps` (per topic, by capture time; with `--group` per unit, by that of its first frame), the stamps of
frames that are passed over are read as well.

What a cut-off recording still holds is used. A message known to be cut is lost as `truncated`; a stretch of which nobody
knows how many frames it held counts as one lost frame, at the end.
"""

import bisect
import hashlib
import os
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import islice
from operator import attrgetter
from pathlib import Path

from geal_edge.errors import FrameError, SourceError, UsageError
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.sources import pixels
from geal_edge.runtime.sources.bagfile import BagFile, Channel, Contents, Messages, Place, is_zipped, unzipped
from geal_edge.runtime.sources.bagfolder import METADATA, files_of
from geal_edge.runtime.sources.baglog import Entry, Log, OpenFiles, opened_files
from geal_edge.runtime.sources.images import decode_image, own_name
from geal_edge.runtime.sources.rate import Rate
from geal_edge.runtime.sources.rosmessages import (
    CompressedPicture,
    carries_pictures,
    picture_in,
    prefix_bytes,
    readable_picture,
    stamp_ns,
    why_unreadable,
)
from geal_edge.runtime.units import Instants, tolerance_ns

_LOOK_FOR_SIZE = 16
_FINGERPRINT_BYTES = 1024 * 1024
_CLOCK_WAS_SET_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """An image topic of a bag.

    kind     its type and the encoding or format of its first message, for people
    problem  why its messages give no frames; None where they do
    """

    name: str
    kind: str
    count: int
    problem: str | None

    def __str__(self) -> str:
        unread = f"; {self.problem}" if self.problem else ""
        return f"{self.name}  ({self.kind}, {self.count} message{'s' * (self.count != 1)}{unread})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A frame, and where the message lies that it was read from.

    messages  fetches from `file`, until the next one is asked for
    """

    frame: Frame | LostFrame
    file: BagFile
    messages: Messages
    channel: Channel
    place: Place
    log_time_ns: int


class BagSource:
    """The frames of one or more image topics of a recording.

    topics  names, or globs as in `/cam_*/image`; none: the only image topic there is
    name    defaults to the folder's or file's name
    fps     look at so many frames a second of each topic (see Rate), or with `group_s` at so many units a second
    group_s  the frames will form units of so many seconds (units.py): no topics are then all image topics

    Raises UsageError where the topics are not there, or are several and none was chosen (both list what there is),
    SourceError where nothing can be read, MissingDependency where a package of the extra `bags` is not installed.
    """

    def __init__(
        self,
        path: Path,
        topics: Sequence[str] = (),
        *,
        name: str | None = None,
        fps: float | None = None,
        group_s: float | None = None,
    ) -> None:
        Rate(fps)
        Instants(group_s)
        if group_s is not None and not topics:
            topics = ("*",)
        self.path = path
        self.name = name or own_name(path)
        self.spec = "#".join([os.path.abspath(path), *topics])
        self.kind = "bag"
        self.fps = fps
        self.group_s = group_s
        self._files, absent = files_of(path)
        contents = [_contents(file) for file in self._files]
        self._channels = [content.channels for content in contents]
        self._gaps = [
            f"{file.path.name}: {gap}"
            for file, content in zip(self._files, contents, strict=True)
            for gap in content.gaps
        ]
        self._gaps += [f"{file}: is named in {METADATA}, but is not there" for file in absent]
        self._log = Log(contents)
        self.image_topics = tuple(self._all_topics())
        cuts = [f"{file.path.name}: {c.cut}." for file, c in zip(self._files, contents, strict=True) if c.cut]
        self.topics = self._choose(topics, "".join(f"\n  {cut}" for cut in cuts))
        self._log.keep([[n for n, c in channels.items() if c.topic in self.topics] for channels in self._channels])
        left_out = [f"{topic} is left out." for topic in self.image_topics if self._was_meant(topic, topics)]
        self.notes = tuple(cuts + left_out)
        """What a person should know of it, as sentences: where it was cut off, which topics were meant and cannot be read."""

    def fingerprint(self) -> str:
        """Sizes and a digest of both ends of its files, and the topics: another choice counts frames in another way. With
        `fps` also `group_s`, which then decides what frames there are."""
        digest = hashlib.sha256()
        total = 0
        for file in self._files:
            with file.path.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                digest.update(b"%d\0" % size + stream.read(_FINGERPRINT_BYTES))
                stream.seek(max(0, size - _FINGERPRINT_BYTES))
                digest.update(stream.read(_FINGERPRINT_BYTES))
            total += size
        for topic in self.topics:
            digest.update(topic.encode() + b"\0")
        if self.fps is not None and self.group_s is not None:
            digest.update(f"group {tolerance_ns(self.group_s)}".encode())
        return f"bag:{total}:{digest.hexdigest()}"

    @cached_property
    def frame_count(self) -> int | None:
        """Exact, but with `fps`, where log times stand for capture times, which would have to be read."""
        if self.fps is None:
            return len(self._log) + len(self._gaps)
        sampling = self._sampling()
        topics = (self._channels[entry.file][entry.channel].topic for entry in self._log)
        taken = sum(sampling.takes(topic, entry.time_ns) for topic, entry in zip(topics, self._log, strict=True))
        return taken + len(self._gaps)

    @cached_property
    def size(self) -> tuple[int, int] | None:
        usable = (item for item in islice(self.frames(), _LOOK_FOR_SIZE) if isinstance(item, Frame))
        first = next(usable, None)
        return None if first is None else (first.image.shape[1], first.image.shape[0])

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame]:
        sampling = self._sampling()
        yield from map(attrgetter("frame"), self._recorded(lambda index: index > after, sampling))
        for index, gap in enumerate(self._gaps, start=len(self._log)):
            if index > after:
                yield LostFrame(
                    id=f"{self.name}#gap-{index}",
                    source=self.name,
                    frame_index=index,
                    capture_time_ns=None,
                    reason="truncated",
                    detail=f"{gap}. How many frames that held is not known; it counts as one.",
                )

    def recorded(self, indices: Collection[int]) -> Iterator[Recorded]:
        """The frames at these indices, in order, as far as there are such, whatever `fps`; only they are decoded."""
        wanted = frozenset(indices)
        return islice(self._recorded(wanted.__contains__, _Sampling(None, None)), len(wanted))

    def _sampling(self) -> "_Sampling":
        return _Sampling(self.fps, self.group_s)

    def _recorded(self, wanted: Callable[[int], bool], sampling: "_Sampling") -> Iterator[Recorded]:
        stamps = {topic: _Stamps() for topic in self.topics}
        with opened_files(self._files) as files:
            for index, entry in enumerate(self._log):
                channel = self._channels[entry.file][entry.channel]
                messages = files.get(entry.file)
                try:
                    time_ns = _stamp(messages, entry.place, channel) or entry.time_ns
                except FrameError:
                    time_ns = entry.time_ns  # reading the whole of it will say what is wrong
                label = stamps[channel.topic].label(time_ns)
                if sampling.takes(channel.topic, time_ns) and wanted(index):
                    identity = f"{self.name}#{channel.topic}@{label}"
                    yield Recorded(
                        frame=self._frame(index, identity, time_ns, channel, messages, entry.place),
                        file=self._files[entry.file],
                        messages=messages,
                        channel=channel,
                        place=entry.place,
                        log_time_ns=entry.time_ns,
                    )

    def _frame(
        self, index: int, identity: str, time_ns: int, channel: Channel, messages: Messages, place: Place
    ) -> Frame | LostFrame:
        encoded: bytes | None = None
        encoding = ""
        try:
            picture = readable_picture(channel, unzipped(_read(messages, place)))
            if isinstance(picture, CompressedPicture):
                decoded = decode_image(picture.data)
                image, encoded, encoding = decoded.image, decoded.encoded, decoded.encoding
            else:
                image = pixels.rgb(picture)
        except FrameError as error:
            return LostFrame(
                id=identity,
                source=self.name,
                frame_index=index,
                capture_time_ns=time_ns,
                topic=channel.topic,
                reason=error.reason,
                detail=f"{channel.topic}: {error.detail}",
            )
        return Frame(
            id=identity,
            source=self.name,
            frame_index=index,
            capture_time_ns=time_ns,
            topic=channel.topic,
            image=image,
            encoded=encoded,
            encoding=encoding,
        )

    def _all_topics(self) -> Iterator[Topic]:
        """Topics of the types that carry pictures, in order of their names."""
        named: dict[str, list[Channel]] = {}
        for channels in self._channels:
            for channel in channels.values():
                if carries_pictures(channel):
                    named.setdefault(channel.topic, []).append(channel)
        firsts: dict[str, Entry] = {}
        counts = dict.fromkeys(named, 0)
        for file, channel_number, count, first in self._log.by_channel():
            topic = self._channels[file][channel_number].topic
            counts[topic] += count
            if topic not in firsts or first.time_ns < firsts[topic].time_ns:
                firsts[topic] = first
        with opened_files(self._files) as files:
            for topic, channels_of in sorted(named.items()):
                format_ = _format(files, firsts[topic], self._channels) if topic in firsts else ""
                kind = " ".join([*sorted({channel.type for channel in channels_of}), *([format_] if format_ else [])])
                problems = {why_unreadable(channel, format_) for channel in channels_of}
                problem = None if None in problems else min(problem for problem in problems if problem)
                yield Topic(name=topic, kind=kind, count=counts[topic], problem=problem)

    def _choose(self, patterns: Sequence[str], cuts: str) -> tuple[str, ...]:
        listed = "".join(f"\n  {topic}" for topic in self.image_topics)
        if not self.image_topics:
            others = sorted({c.topic for channels in self._channels for c in channels.values()})
            raise SourceError(
                f"{self.path}: holds no image topic (sensor_msgs Image or CompressedImage, or Foxglove's). "
                f"Its topics: {', '.join(others) or 'none'}{cuts}"
            )
        usable = [topic for topic in self.image_topics if topic.problem is None and topic.count]
        if not usable:
            raise SourceError(f"{self.path}: no image topic holds a message that can be read:{listed}{cuts}")
        if not patterns:
            if len(usable) > 1:
                raise UsageError(
                    f"{self.path}: holds {len(usable)} image topics. Choose with --topic NAME (again for more), "
                    f"or a glob as in --topic '{_common_glob(usable)}':{listed}"
                )
            return (usable[0].name,)
        for pattern in patterns:
            if not any(_matches(topic, pattern) for topic in self.image_topics):
                raise UsageError(f"{self.path}: --topic {pattern} matches none of its image topics:{listed}")
            if not any(_matches(topic, pattern) for topic in usable):
                raise SourceError(f"{self.path}: --topic {pattern} matches no topic that can be read:{listed}")
        return tuple(topic.name for topic in usable if any(_matches(topic, pattern) for pattern in patterns))

    def _was_meant(self, topic: Topic, patterns: Sequence[str]) -> bool:
        return topic.name not in self.topics and any(_matches(topic, pattern) for pattern in patterns)


class _TopicRate:
    """`--fps` of one topic. The slots start anew where its clock was set back by more than a second."""

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._rate = Rate(fps)
        self._start_ns: int | None = None
        self._last_ns = 0

    def takes(self, time_ns: int) -> bool:
        if self._start_ns is None or time_ns < self._last_ns - _CLOCK_WAS_SET_NS:
            self._rate, self._start_ns = Rate(self._fps), time_ns
        self._last_ns = time_ns
        return self._rate.takes(time_ns - self._start_ns)


class _Sampling:
    """`--fps` of all topics: each by itself, or with `group_s` whole units, for the cameras of one instant stay together."""

    def __init__(self, fps: float | None, group_s: float | None) -> None:
        self._fps = fps
        self._grouped = group_s is not None
        self._instants = Instants(group_s)
        self._rates: dict[str, _TopicRate] = {}
        self._taken = False

    def takes(self, topic: str, time_ns: int) -> bool:
        if self._instants.begins(topic, time_ns):
            rate = self._rates.setdefault("" if self._grouped else topic, _TopicRate(self._fps))
            self._taken = rate.takes(time_ns)
        return self._taken


class _Stamps:
    """The stamps of one topic so far, sorted, 8 bytes each: makes those that come again unique."""

    def __init__(self) -> None:
        self._sorted: array[int] = array("q")
        self._times: dict[int, int] = {}

    def label(self, time_ns: int) -> str:
        at = bisect.bisect_left(self._sorted, time_ns)
        if at == len(self._sorted) or self._sorted[at] != time_ns:
            self._sorted.insert(at, time_ns)
            return str(time_ns)
        self._times[time_ns] = self._times.get(time_ns, 1) + 1
        return f"{time_ns}.{self._times[time_ns]}"


def _read(messages: Messages, place: Place, at_most: int | None = None) -> bytes:
    try:
        return messages.read(place, at_most)
    except OSError as error:
        raise FrameError("unreadable", f"cannot be read ({error.strerror or error}).") from error


def _stamp(messages: Messages, place: Place, channel: Channel) -> int:
    start = _read(messages, place, prefix_bytes(channel))
    if is_zipped(start):
        start = unzipped(_read(messages, place))
    return stamp_ns(channel, start)


def _format(files: OpenFiles, entry: Entry, channels: Sequence[dict[int, Channel]]) -> str:
    """What a topic's first message says of its picture; "" where it cannot be read."""
    try:
        message = unzipped(_read(files.get(entry.file), entry.place))
        picture = picture_in(channels[entry.file][entry.channel], message)
    except FrameError:
        return ""
    return picture.format if isinstance(picture, CompressedPicture) else picture.encoding


def _matches(topic: Topic, pattern: str) -> bool:
    return topic.name == pattern or fnmatchcase(topic.name, pattern)


def _common_glob(topics: Sequence[Topic]) -> str:
    return os.path.commonprefix([topic.name for topic in topics]) + "*"  # noqa: RUF071  a glob goes by characters


def _contents(file: BagFile) -> Contents:
    try:
        return file.contents()
    except OSError as error:
        raise SourceError(f"{file.path}: cannot be read ({error.strerror or error})") from error
