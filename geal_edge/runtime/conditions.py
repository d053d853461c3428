"""Conditions on a frame's metadata, as `speed_kmh > 5 and gear != "R"`: a small language, read by hand and never executed.

    condition   either { "or" either }
    either      plain { "and" plain }
    plain       "not" plain | "(" condition ")" | "any" "(" comparison ")" | place | comparison | key
    comparison  value ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) constant | value "in" "[" constant { "," constant } "]"
    value       key | "max" "(" key ")"
    place       "within" "(" number "," number "," distance ")"
    key         name { "." name }
    constant    number | text in quotes | "true" | "false"
    distance    number "m" | number "km"

A key leads into objects: `ego.speed`. `any` asks the comparison of every element of a list, `max` takes the largest number of
one: `any(detections.class == "pedestrian")`, `max(detections.score) < 0.4`. `within(48.137, 11.575, 5km)` asks the keys `lat`
and `lon` (degrees). A key alone asks for `true`.

An answer is true, false or unknown: what asks for a key that is not there, or orders what has no order, is unknown. `not` of
unknown is unknown; `and`, `or` and `any` know as much as the rest of them decides (Kleene's logic).
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from geal_edge.errors import UsageError
from geal_edge.runtime.metadata import Metadata

Answer: TypeAlias = bool | None
"""None: unknown."""

MAX_CHARACTERS = 1000
MAX_DEPTH = 32
EARTH_RADIUS_M = 6_371_008.8
"""Mean radius of the Earth (IUGG)."""

_Ask: TypeAlias = Callable[[Metadata], Answer]
_Constant: TypeAlias = bool | float | str
_Kind: TypeAlias = Literal["number", "text", "name", "sign", "end"]

_TOKEN = re.compile(
    r"""\s*(?: (?P<number> -?\d+(?:\.\d+)?(?:[eE][+-]?\d+)? )
             | (?P<text> "[^"]*" | '[^']*' )
             | (?P<name> [A-Za-z_]\w* )
             | (?P<sign> == | != | <= | >= | [<>()\[\],.] ) )""",
    re.VERBOSE | re.ASCII,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_RESERVED = frozenset(("and", "or", "not", "in", "true", "false", "any", "max", "within"))


class Condition:
    """One condition, read once and asked of many frames.

    Raises UsageError where the text is no condition; the sentence says where.

    >>> Condition('speed_kmh > 5 and gear != "R"').ask({"speed_kmh": 31.5, "gear": "D"})
    True
    >>> print(Condition("speed_kmh > 5").ask({"gear": "D"}))
    None
    >>> Condition("within(48.137, 11.575, 5km)").ask({"lat": 48.15, "lon": 11.58})
    True
    >>> Condition('any(detections.class == "pedestrian")').ask({"detections": [{"class": "car"}, {"class": "pedestrian"}]})
    True
    >>> Condition("speed_kmh >")
    Traceback (most recent call last):
        ...
    geal_edge.errors.UsageError: condition 'speed_kmh >', character 12: a number, a text in quotes, true or false was expected...
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.ask: _Ask = _Reader(text).whole()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    at: int


class _Reader:
    """Recursive descent over the tokens of one condition; every rule of the grammar is a method."""

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > MAX_CHARACTERS:
            self._fail(MAX_CHARACTERS, f"at most {MAX_CHARACTERS} characters were expected, and there are {len(text)}")
        self._tokens = list(self._split())
        self._next = 0
        self._depth = 0

    def whole(self) -> _Ask:
        ask = self._condition()
        if self._token.kind != "end":
            self._expected("`and`, `or` or the end")
        return ask

    def _condition(self) -> _Ask:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(self._token.at, f"at most {MAX_DEPTH} conditions within each other were expected")
        asks = [self._either()]
        while self._take("or"):
            asks.append(self._either())
        self._depth -= 1
        return asks[0] if len(asks) == 1 else lambda metadata: _one_of(ask(metadata) for ask in asks)

    def _either(self) -> _Ask:
        asks = [self._plain()]
        while self._take("and"):
            asks.append(self._plain())
        return asks[0] if len(asks) == 1 else lambda metadata: _not(_one_of(_not(ask(metadata)) for ask in asks))

    def _plain(self) -> _Ask:
        turned = False
        while self._take("not"):
            turned = not turned
        ask = self._positive()
        return (lambda metadata: _not(ask(metadata))) if turned else ask

    def _positive(self) -> _Ask:
        if self._take("("):
            ask = self._condition()
            self._require(")")
            return ask
        if self._take("any"):
            self._require("(")
            ask = self._any()
            self._require(")")
            return ask
        if self._take("within"):
            return self._within()
        if self._take("max"):
            self._require("(")
            key = self._key()
            self._require(")")
            compare = self._comparison()
            return lambda metadata: compare(_largest(list(_values(metadata, key))))
        key = self._key()
        if self._token.text in _COMPARE or self._token.text == "in":
            compare = self._comparison()
            return lambda metadata: compare(_value(metadata, key))
        return lambda metadata: _bool(_value(metadata, key))

    def _any(self) -> _Ask:
        key = self._key()
        compare = self._comparison()
        return lambda metadata: _one_of(compare(value) for value in _values(metadata, key))

    def _comparison(self) -> Callable[[Any], Answer]:
        """Of a value that is there; of `_ABSENT` the answer is unknown."""
        if self._take("in"):
            self._require("[")
            among = [self._constant()]
            while self._take(","):
                among.append(self._constant())
            self._require("]")
            return lambda value: _one_of(_compare("==", value, each) for each in among)
        sign = self._token.text
        if sign not in _COMPARE:
            self._expected("one of == != < <= > >= in")
        self._next += 1
        at, constant = self._token.at, self._constant()
        if sign not in ("==", "!=") and (isinstance(constant, bool | str)):
            self._fail(at, f"a number was expected behind {sign}")
        return lambda value: _compare(sign, value, constant)

    def _within(self) -> _Ask:
        self._require("(")
        lat = self._number("a latitude in degrees", 90.0)
        self._require(",")
        lon = self._number("a longitude in degrees", 180.0)
        self._require(",")
        radius = self._number("a distance, as 5km or 200m", math.inf)
        unit = {"m": 1.0, "km": 1000.0}.get(self._token.text)
        if unit is None or radius < 0.0:
            self._expected("a distance, as 5km or 200m")
        self._next += 1
        self._require(")")
        return lambda metadata: _near(metadata, lat, lon, radius * unit)

    def _key(self) -> tuple[str, ...]:
        names = [self._name()]
        while self._take("."):
            names.append(self._name())
        return tuple(names)

    def _name(self) -> str:
        token = self._token
        if token.kind != "name" or token.text in _RESERVED:
            self._expected("a key of the metadata")
        self._next += 1
        return token.text

    def _constant(self) -> _Constant:
        token = self._token
        if token.kind == "text":
            self._next += 1
            return token.text[1:-1]
        if token.text in ("true", "false"):
            self._next += 1
            return token.text == "true"
        return self._number("a number, a text in quotes, true or false", math.inf)

    def _number(self, words: str, most: float) -> float:
        token = self._token
        if token.kind != "number":
            self._expected(words)
        value = float(token.text)
        if not (math.isfinite(value) and abs(value) <= most):
            self._expected(words)
        self._next += 1
        return value

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, text: str) -> bool:
        token = self._token
        taken = token.text == text and token.kind in ("name", "sign")
        self._next += taken
        return taken

    def _require(self, text: str) -> None:
        if not self._take(text):
            self._expected(f"`{text}`")

    def _expected(self, words: str) -> NoReturn:
        token = self._token
        found = "it ends" if token.kind == "end" else f"there is {token.text}"
        self._fail(token.at, f"{words} was expected, and {found}")

    def _fail(self, at: int, words: str) -> NoReturn:
        short = self._text if len(self._text) <= 80 else f"{self._text[:80]}..."
        raise UsageError(f"condition {short!r}, character {at + 1}: {words}")

    def _split(self) -> Iterator[_Token]:
        at, text = 0, self._text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                begin = at + len(text[at:]) - len(text[at:].lstrip())
                if text[begin] in "\"'":
                    self._fail(begin, "a text ends with the quote that it begins with, and there is none")
                self._fail(begin, f"{text[begin]!r} is no part of a condition")
            kind: Any = found.lastgroup
            yield _Token(kind, found[kind], found.start(kind))
            at = found.end()
        yield _Token("end", "", len(text))


_ABSENT: Any = object()


def _value(metadata: Metadata, key: tuple[str, ...]) -> Any:
    value: Any = metadata
    for name in key:
        value = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value


def _values(value: Any, key: tuple[str, ...]) -> Iterator[Any]:
    """Those that a key leads to through lists; `_ABSENT` for an element that has none, and where there is no list."""
    for place, name in enumerate(key):
        value = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if isinstance(value, list):
            for element in value:
                yield _value(element, key[place + 1 :]) if key[place + 1 :] else element
            return
    yield _ABSENT


def _compare(sign: str, value: Any, constant: _Constant) -> Answer:
    if value is _ABSENT:
        return None
    if _kind(value) == _kind(constant) != "other":
        return _COMPARE[sign](value, constant)
    return {"==": False, "!=": True}.get(sign)  # what is of another kind is not the same, and has no order


def _kind(value: Any) -> Literal["truth", "text", "number", "other"]:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number" if isinstance(value, int | float) else "other"


def _largest(values: list[Any]) -> Any:
    """The largest number; `_ABSENT` where there is none, or something else among them."""
    return max(values) if values and all(_kind(value) == "number" for value in values) else _ABSENT


def _bool(value: Any) -> Answer:
    return value if isinstance(value, bool) else None


def _near(metadata: Metadata, lat: float, lon: float, radius_m: float) -> Answer:
    here: list[Any] = [metadata.get(name) for name in ("lat", "lon")]
    if any(_kind(degrees) != "number" for degrees in here) or abs(here[0]) > 90.0 or abs(here[1]) > 360.0:
        return None
    return great_circle_m(here[0], here[1], lat, lon) <= radius_m


def great_circle_m(lat: float, lon: float, other_lat: float, other_lon: float) -> float:
    """Metres between two places in degrees, on a sphere (haversine).

    >>> round(great_circle_m(0.0, 179.5, 0.0, -179.5) / 1000)  # one degree of the equator, over the date line
    111
    """
    phi, other_phi = math.radians(lat), math.radians(other_lat)
    across = math.sin(math.radians(other_lon - lon) / 2) ** 2
    half = math.sin((other_phi - phi) / 2) ** 2 + math.cos(phi) * math.cos(other_phi) * across
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, half)))


def _not(answer: Answer) -> Answer:
    return None if answer is None else not answer


def _one_of(answers: Iterator[Answer]) -> Answer:
    known: Answer = False
    for answer in answers:
        if answer:
            return True
        known = None if answer is None else known
    return known
