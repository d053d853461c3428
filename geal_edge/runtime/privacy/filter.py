"""One picture through the hook, and without what tells too much.

    bytes -> command or function -> is it a picture of the same form and size? -> cleaned (picture.py) -> bytes

Whatever goes wrong is a FrameError `privacy` with a sentence: then there are no bytes, and nobody can go on with the original.
"""

import importlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any

import numpy as np

from geal_edge.config import Position, PrivacyConfig
from geal_edge.errors import FrameError, UsageError
from geal_edge.runtime.frame import Image
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.privacy.picture import cleaned
from geal_edge.runtime.privacy.program import answer_of
from geal_edge.runtime.sources.images import decode_image


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a command is told of a picture, in its environment."""

    id: str
    source: str
    capture_time_ns: int | None

    def environment(self) -> dict[str, str]:
        return {
            "GEAL_EDGE_FRAME_ID": self.id,
            "GEAL_EDGE_FRAME_SOURCE": self.source,
            "GEAL_EDGE_CAPTURE_TIME_NS": "" if self.capture_time_ns is None else str(self.capture_time_ns),
        }


class PrivacyFilter:
    """What a configuration asks for, ready to be done. Raises UsageError where its program or function cannot be had."""

    def __init__(self, config: PrivacyConfig) -> None:
        self.config = config
        if config.command is not None and shutil.which(config.command[0]) is None:
            raise UsageError(
                f"privacy.command = {config.command[0]}: is no program that can be run here. Install it, or mend the path"
            )
        self._function = None if config.python is None else _function(config.python)
        self._working: Thread | None = None

    @property
    def has_hook(self) -> bool:
        return self._function is not None or self.config.command is not None

    def __call__(
        self,
        data: bytes,
        ending: str,
        about: About,
        *,
        position: Position,
        hook: bool = True,
        image: Image | None = None,
    ) -> bytes:
        """The bytes of an image file (`jpg`, `png`, `webp`) that may be seen, of the same format.

        position  how much may be told of where it was taken
        hook      whether it must pass the hook; else only what stands beside its pixels is taken out
        image     what is in it, upright, where that is known
        """
        if not hook:
            return cleaned(data, position)
        image = decode_image(data).image if image is None else image
        if self.config.command is not None:
            answer = answer_of(
                self.config.command,
                data,
                about.environment(),
                timeout_s=self.config.timeout_s,
                most_bytes=max(MOST_BYTES, 8 * len(data)),
            )
            self._require_like(image, _answered(answer, ending))
            return cleaned(answer, position, taken=data)
        return cleaned(_encoded(self._called(image), ending), position, taken=data)

    def _require_like(self, image: Image, answer: Image) -> None:
        if answer.shape != image.shape or answer.dtype != np.uint8:
            was, now = (f"{each.dtype} {'x'.join(map(str, each.shape))}" for each in (image, answer))
            raise FrameError("privacy", f"the hook made {now} of {was}: it must give back the same size and type.")

    def _called(self, image: Image) -> Image:
        """What the function makes of a copy, in a thread of its own: nobody could end it otherwise, and nobody can end it so, but
        the work goes on without it."""
        if self._function is None:
            raise AssertionError("who asks for a hook has one")
        if self._working is not None and self._working.is_alive():
            raise FrameError("privacy", f"{self.config.python} is still busy with an earlier picture.")
        answers: list[Any] = []
        function, own = self._function, np.array(image)

        def work() -> None:
            try:
                answers.append(function(own))
            except BaseException as error:  # noqa: BLE001  of whatever somebody's function may raise one thing is sure
                answers.append(error)

        self._working = Thread(target=work, name="privacy", daemon=True)
        self._working.start()
        self._working.join(self.config.timeout_s)
        if not answers:
            raise FrameError("privacy", f"{self.config.python} took longer than {self.config.timeout_s:g} s.")
        if isinstance(answers[0], BaseException):
            raise FrameError("privacy", f"{self.config.python} raised {answers[0]!r}.") from answers[0]
        if not isinstance(answers[0], np.ndarray):
            raise FrameError("privacy", f"{self.config.python} gave {type(answers[0]).__name__}, and no array.")
        self._require_like(image, answers[0])
        return answers[0]


MOST_BYTES = 64_000_000
"""That a hook may write, or eight times what it was given."""


def _function(name: str) -> Callable[[Image], object]:
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module of somebody else may raise anything while it is imported
        raise UsageError(
            f"privacy.python = {name}: cannot be imported ({error!r}). It must be installed beside geal-edge, or PYTHONPATH must "
            "name its folder."
        ) from error
    if not callable(function):
        raise UsageError(f"privacy.python = {name}: is no function")
    found: Callable[[Image], object] = function
    return found


def _answered(answer: bytes, ending: str) -> Image:
    """What a command wrote, as pixels: what cannot be looked at here must not be sent either."""
    try:
        decoded = decode_image(answer)
    except FrameError as error:
        raise FrameError("privacy", f"what the hook wrote is no picture: {error.detail}") from error
    if decoded.encoding != ending.replace("jpeg", "jpg"):
        raise FrameError(
            "privacy", f"the hook wrote {decoded.encoding or 'another format'} for {ending}: the same is expected."
        )
    return decoded.image


def _encoded(image: Image, ending: str) -> bytes:
    if ending != "webp":
        return encode(image, "png" if ending == "png" else "jpg")
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()
