"""The image messages of all files of a recording as one list in order of time, and the files they are fetched from."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np

from geal_edge.runtime.sources.bagfile import BagFile, Contents, Messages, Place

_OPEN_FILES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in the log: of which file and channel, where it lies."""

    time_ns: int
    file: int
    channel: int
    place: Place


class Log:
    """All image messages of all files of a recording, in order of log time, then as they were written."""

    def __init__(self, contents: Sequence[Contents]) -> None:
        columns = [
            np.stack(
                [
                    np.asarray(content.places.times, np.int64),
                    np.full(len(content.places), number, np.int64),
                    np.asarray(content.places.channels, np.int64),
                    np.asarray(content.places.positions, np.int64),
                    np.asarray(content.places.offsets, np.int64),
                ]
            )
            for number, content in enumerate(contents)
        ]
        rows = np.concatenate(columns, axis=1)
        times, files, _, positions, offsets = rows
        self._rows = rows[:, np.lexsort((offsets, positions, files, times))]

    def __len__(self) -> int:
        return int(self._rows.shape[1])

    def __iter__(self) -> Iterator[Entry]:
        return (self._entry(index) for index in range(len(self)))

    def keep(self, channels: Sequence[Sequence[int]]) -> None:
        """Forget all messages but those of these channels of each file."""
        _, files, numbers, _, _ = self._rows
        chosen = np.zeros(len(self), bool)
        for file, wanted in enumerate(channels):
            chosen |= (files == file) & np.isin(numbers, wanted)
        self._rows = self._rows[:, chosen]

    def by_channel(self) -> Iterator[tuple[int, int, int, Entry]]:
        """(file, channel, how many messages, the first of them)."""
        pairs, first, counts = np.unique(self._rows[1:3], axis=1, return_index=True, return_counts=True)
        for (file, channel), index, count in zip(pairs.T.tolist(), first.tolist(), counts.tolist(), strict=True):
            yield file, channel, count, self._entry(index)

    def _entry(self, index: int) -> Entry:
        time_ns, file, channel, position, offset = self._rows[:, index].tolist()
        return Entry(time_ns, file, channel, Place(position, offset))


class OpenFiles:
    """The files of a recording that messages were last read from: a few at a time, for a drive may be split into many."""

    def __init__(self, files: Sequence[BagFile]) -> None:
        self._files = files
        self._open: OrderedDict[int, tuple[AbstractContextManager[Messages], Messages]] = OrderedDict()

    def get(self, number: int) -> Messages:
        if number not in self._open:
            if len(self._open) == _OPEN_FILES:
                _, (oldest, _) = self._open.popitem(last=False)
                oldest.__exit__(None, None, None)
            context = self._files[number].open()
            self._open[number] = context, context.__enter__()
        self._open.move_to_end(number)
        return self._open[number][1]

    def close(self) -> None:
        while self._open:
            _, (context, _) = self._open.popitem()
            context.__exit__(None, None, None)


@contextmanager
def opened_files(files: Sequence[BagFile]) -> Iterator[OpenFiles]:
    opened = OpenFiles(files)
    try:
        yield opened
    finally:
        opened.close()
