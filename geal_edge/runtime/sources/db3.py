"""rosbag2 recordings in SQLite (.db3): the tables `topics` and `messages`, read without loading more than one message.

A file that was cut off loses what stood on its missing pages; the rows before them are read all the same.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geal_edge.errors import FrameError, SourceError
from geal_edge.runtime.sources.bagfile import Channel, Contents, Definition, Place, Places
from geal_edge.runtime.sources.rosmessages import carries_pictures, plain_type


class Db3File:
    """One .db3 file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def contents(self) -> Contents:
        with self._connection() as database:
            try:
                rows = database.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
            except sqlite3.Error as error:
                raise SourceError(
                    f"{self.path}: cannot be read as a rosbag2 database ({error}). Try to recover it with: "
                    "sqlite3 FILE .recover"
                ) from error
            definitions = _definitions(database)
            channels = {
                number: Channel(
                    topic=name, type=plain_type(type_), encoding=encoding, definition=definitions.get((number, type_))
                )
                for number, name, type_, encoding in rows
                if isinstance(number, int) and all(isinstance(word, str) for word in (name, type_, encoding))
            }
            pictures = {number for number, channel in channels.items() if carries_pictures(channel)}
            places = Places()
            try:
                for row, topic, time_ns in database.execute("SELECT id, topic_id, timestamp FROM messages"):
                    if topic in pictures and isinstance(row, int) and isinstance(time_ns, int):
                        places.add(time_ns, topic, row)
            except sqlite3.DatabaseError as error:
                cut = f"the database is damaged or cut off ({error})"
                return Contents(channels=channels, places=places, cut=cut, gaps=(cut,))
        return Contents(channels=channels, places=places)

    @contextmanager
    def open(self) -> Iterator["Db3Messages"]:
        with self._connection() as database:
            yield Db3Messages(database)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        database = self._connect("mode=ro")
        try:
            yield database
        finally:
            database.close()

    def _connect(self, how: str) -> sqlite3.Connection:
        address = self.path.absolute().as_uri()
        # Opened by the caller and then read by one thread ahead of it (overlap.py), never by two at a time.
        database = sqlite3.connect(f"{address}?{how}", uri=True, check_same_thread=False)
        try:
            # Without this SQLite reads nothing at all of a file that is shorter than it once was.
            database.execute("PRAGMA writable_schema = ON")
            database.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            database.close()
            if how == "mode=ro":
                return self._connect("mode=ro&immutable=1")  # a journal beside it, in a folder that is read-only
            raise SourceError(f"{self.path}: cannot be opened as a database") from None
        except sqlite3.DatabaseError as error:
            database.close()
            raise SourceError(f"{self.path}: is not a rosbag2 database ({error})") from error
        return database


def _definitions(database: sqlite3.Connection) -> dict[tuple[int, str], Definition]:
    """By topic and type; only recorders since ROS 2 Iron write them."""
    try:
        rows = database.execute(
            "SELECT t.id, t.type, t.offered_qos_profiles, d.encoding, d.encoded_message_definition "
            "FROM topics t JOIN message_definitions d ON d.topic_type = t.type"
        ).fetchall()
    except sqlite3.Error:
        return {}
    return {
        (number, type_): Definition(
            name=type_,
            encoding=encoding,
            schema=schema.encode(),
            metadata=(("offered_qos_profiles", qos),) if isinstance(qos, str) else (),
        )
        for number, type_, qos, encoding, schema in rows
        if isinstance(encoding, str) and isinstance(schema, str) and encoding and schema
    }


class Db3Messages:
    """Fetches messages of an open database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def read(self, place: Place, at_most: int | None = None) -> bytes:
        what = "data" if at_most is None else f"substr(data, 1, {int(at_most)})"
        try:
            row = self._database.execute(f"SELECT {what} FROM messages WHERE id = ?", (place.position,)).fetchone()  # noqa: S608  a number of ours
        except sqlite3.Error as error:
            raise FrameError(
                "truncated", f"its row cannot be read: the database is damaged or cut off ({error})."
            ) from error
        if row is None or not isinstance(row[0], bytes):
            raise FrameError("undecodable", "its row holds no message.")
        return row[0]

    def logged(self, place: Place) -> None:
        """A row says no more of a message than its log time."""
