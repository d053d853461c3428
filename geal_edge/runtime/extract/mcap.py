"""`--format mcap`: the selected frames' messages, as they were recorded, in a file that whatever plays recordings opens.

    selection -> each bag, read again: is it still the frame that was selected, and where does its message lie
              -> all messages in order of log time, fetched one by one -> selected.mcap

Nothing is decoded on the way into the file: topic, schema, encoding, times and sequence are the recording's, the bytes are its
bytes. Messages that rosbag2 compressed one by one are unpacked: only the metadata.yaml of their folder told readers to.
What is known of each frame stands in `frames.jsonl` and in metadata records of the file, one a frame, in the selected order.

ROS 1 and ROS 2 (and what is neither) do not go into one file: readers take a file's profile for all of it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING

from geal_edge.errors import (
    FrameError,
    GealEdgeError,
    Interrupted,
    MissingDependency,
    PrivacyError,
    SourceError,
    UsageError,
)
from geal_edge.runtime.extract.extraction import ExtractedFrame, Extraction, Message, one_line
from geal_edge.runtime.extract.images import line_of
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.privacy.picture import cleaned
from geal_edge.runtime.selection import SelectedFrame, SelectedSource, Selection, still
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.sources.bagfile import BagFile, Channel, Logged, Place, missing, unzipped
from geal_edge.runtime.sources.baglog import opened_files
from geal_edge.runtime.sources.bags import BagSource

if TYPE_CHECKING:
    from mcap.writer import Writer

FRAME_RECORD = "geal_edge/frame"

_PROFILES = {"cdr": "ros2", "ros1": "ros1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A selected frame's message, where it lies, and what it was when the frame was checked."""

    frame: SelectedFrame
    file: BagFile
    channel: Channel
    place: Place
    logged: Logged
    width: int
    height: int
    size: int
    sha256: str


def require_bags(selection: Selection) -> None:
    """Raises UsageError where a selected frame comes from no bag, MissingDependency where the writer is not installed, and
    PrivacyError where pictures of the spool must pass a hook: the recording has those that did not."""
    if selection.door is not None and selection.door.rules.strictest.hook is not None:
        raise PrivacyError(
            f"--format mcap: copies messages as they were recorded, and pictures of {selection.name} must pass "
            f"{selection.door.rules.strictest.hook}. Write the pictures with another format, such as --format images."
        )
    kinds = {source.name: source.kind for source in selection.sources}
    for frame in selection.frames:
        if kinds.get(frame.source, "bag") != "bag":
            raise UsageError(
                f"--format mcap: copies recorded messages, and {frame.source} is no bag ({kinds[frame.source]}). "
                "Write the pictures with another format, such as --format images."
            )
    try:
        import mcap.writer  # noqa: F401
        import zstandard  # noqa: F401
    except ImportError as error:
        raise missing(error.name or "mcap") from error


def write_messages(
    selection: Selection, folder: Path, *, name: str, watch: Observer, stop: Callable[[], bool]
) -> tuple[list[ExtractedFrame], list[tuple[SelectedFrame, str]], int]:
    """(frames whose messages were written, frames left out and why, bytes of messages), each in the selected order."""
    found: dict[str, list[_Found]] = {}
    left_out: list[tuple[SelectedFrame, str]] = []
    for frame, message in _find(selection, watch, stop):
        if isinstance(message, str):
            left_out.append((frame, message))
            watch.warn(f"{frame.id}: left out. {message}")
        else:
            found.setdefault(frame.source, []).append(message)
        watch.advance(left_out=len(left_out))
    files = _files(found)
    extracted = {
        message.frame.number: _extracted(message, file) for file, messages in files.items() for message in messages
    }
    frames = tuple(extracted[number] for number in sorted(extracted))
    watch.begin("writing messages", len(frames))
    for file, messages in files.items():
        extraction = Extraction(name=name, selection=selection, frames=tuple(f for f in frames if f.file == file))
        with (folder / file).open("wb") as stream:
            _write(stream, sorted(messages, key=_in_time), extraction, watch, stop)
    return (
        list(frames),
        sorted(left_out, key=lambda left: left[0].number),
        sum(m.size for ms in found.values() for m in ms),
    )


# -- finding them again ------------------------------------------------------------------------------------------------


def _find(
    selection: Selection, watch: Observer, stop: Callable[[], bool]
) -> Iterator[tuple[SelectedFrame, "_Found | str"]]:
    """Each selected frame once, with its message or the sentence that says why there is none. One frame is held at a time."""
    sources = {source.name: source for source in selection.sources}
    wanted: dict[str, dict[int, SelectedFrame]] = {}
    for frame in selection.frames:
        wanted.setdefault(frame.source, {})[frame.frame_index] = frame
    for name, frames in wanted.items():
        watch.begin(f"reading {name} again", len(frames))
        if name in sources:
            yield from _find_in(selection, sources[name], frames, stop)
        else:
            yield from ((frame, f"The picks file names no source {name}.") for frame in frames.values())


def _find_in(
    selection: Selection, source: SelectedSource, wanted: Mapping[int, SelectedFrame], stop: Callable[[], bool]
) -> Iterator[tuple[SelectedFrame, "_Found | str"]]:
    left = dict(wanted)
    try:
        bag = open_source(source.spec, name=source.name, fps=source.fps)
        if not isinstance(bag, BagSource):
            raise SourceError(f"{source.spec} is no bag any more.")
        for recorded in bag.recorded(wanted):
            _stop_if(stop)
            frame = left.pop(recorded.frame.frame_index)
            if (why := _tells_too_much(recorded.frame, selection)) is not None:
                yield frame, why
                continue
            picture = still(recorded.frame, frame)
            if isinstance(picture, str):
                yield frame, picture
                continue
            height, width = picture.image.shape[:2]
            definition = recorded.channel.definition
            if definition is None:
                yield (
                    frame,
                    (
                        f"{recorded.file.path} holds no message definitions, and an MCAP file without them is hard to read. "
                        "Write the pictures with another format, such as --format images."
                    ),
                )
                continue
            data = unzipped(recorded.messages.read(recorded.place))
            time_ns = recorded.log_time_ns
            logged = recorded.messages.logged(recorded.place)
            yield (
                frame,
                _Found(
                    frame=frame,
                    file=recorded.file,
                    channel=recorded.channel,
                    place=recorded.place,
                    logged=logged or Logged(time_ns=time_ns, publish_ns=time_ns, sequence=0),
                    width=width,
                    height=height,
                    size=len(data),
                    sha256=sha256(data).hexdigest(),
                ),
            )
    except (MissingDependency, Interrupted):
        raise
    except (GealEdgeError, OSError) as error:
        why = f"The source cannot be read again: {error}"
    else:
        why = f"{source.spec} has no such frame any more."
    for frame in left.values():
        yield frame, why


def _tells_too_much(picture: Frame | LostFrame, selection: Selection) -> str | None:
    """Why a message must not be copied whose picture says where it was taken; no other message is."""
    if selection.door is None or isinstance(picture, LostFrame) or picture.encoded is None:
        return None
    position = selection.door.rules.strictest.position
    try:
        if position == "keep" or cleaned(picture.encoded, position) == picture.encoded:
            return None
    except FrameError:  # nobody knows what it says
        pass
    return (
        f"Its recorded picture says more than what is seen, as where it was taken, and [privacy] has position = {position}. "
        "Write the pictures with another format, such as --format images."
    )


# -- writing them ------------------------------------------------------------------------------------------------------


def _files(found: Mapping[str, Sequence[_Found]]) -> dict[str, list[_Found]]:
    """The files to write, each with its messages: one, or one a source where their profiles differ."""
    if len({_profile(messages) for messages in found.values()}) <= 1:
        return {"selected.mcap": [message for messages in found.values() for message in messages]} if found else {}
    return {
        f"selected_{number}_{_safe(source)}.mcap": list(messages)
        for number, (source, messages) in enumerate(found.items(), start=1)
    }


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", name)[-100:].strip("_-") or "bag"


def _profile(messages: Sequence[_Found]) -> str:
    """`ros1`, `ros2`, or "" (MCAP's word for neither, or both)."""
    profiles = {_PROFILES.get(message.channel.encoding, "") for message in messages}
    return profiles.pop() if len(profiles) == 1 else ""


def _in_time(message: _Found) -> tuple[int, int]:
    return message.logged.time_ns, message.frame.number


def _write(
    stream: IO[bytes], messages: Sequence[_Found], extraction: Extraction, watch: Observer, stop: Callable[[], bool]
) -> None:
    """One message is held at a time, and the chunk that is being written."""
    from mcap.writer import Writer

    writer = Writer(stream)
    writer.start(_profile(messages), extraction.selection.producer)
    channels: dict[Channel, int] = {}
    schemas: dict[tuple[str, str, bytes], int] = {}
    numbers = {id(message.file): message.file for message in messages}
    places = {key: place for place, key in enumerate(numbers)}
    with opened_files(list(numbers.values())) as files:
        for message in messages:
            _stop_if(stop)
            data = b""
            with suppress(FrameError, OSError):
                data = unzipped(files.get(places[id(message.file)]).read(message.place))
            if sha256(data).hexdigest() != message.sha256:
                raise SourceError(
                    f"{message.file.path}: changed while it was read. Extract again once nothing writes to it."
                )
            channel, logged = message.channel, message.logged
            if channel not in channels:
                channels[channel] = _register(writer, channel, schemas)
            writer.add_message(channels[channel], logged.time_ns, data, logged.publish_ns, logged.sequence)
            watch.advance()
    for frame in extraction.frames:
        line = line_of(frame, extraction, "")
        writer.add_metadata(FRAME_RECORD, {name: _as_text(value) for name, value in line.items()})
    writer.finish()  # type: ignore[no-untyped-call]  # it says nothing of what it returns


def _register(writer: "Writer", channel: Channel, schemas: dict[tuple[str, str, bytes], int]) -> int:
    definition = channel.definition
    if definition is None:
        raise AssertionError("messages without a definition are left out when they are found")
    schema = definition.name, definition.encoding, definition.schema
    if schema not in schemas:
        schemas[schema] = writer.register_schema(*schema)
    return writer.register_channel(channel.topic, channel.encoding, schemas[schema], dict(definition.metadata))


def _as_text(value: object) -> str:
    """Texts as they are (half a surrogate pair escaped, which UTF-8 cannot hold), all else as JSON."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else one_line(value)


def _extracted(message: _Found, file: str) -> ExtractedFrame:
    return ExtractedFrame(
        frame=message.frame,
        file=file,
        width=message.width,
        height=message.height,
        sha256=message.sha256,
        message=Message(
            topic=message.channel.topic,
            log_time_ns=message.logged.time_ns,
            publish_time_ns=message.logged.publish_ns,
            sequence=message.logged.sequence,
        ),
    )


def _stop_if(stop: Callable[[], bool]) -> None:
    if stop():
        raise Interrupted("Stopped while copying messages; nothing was written.")
