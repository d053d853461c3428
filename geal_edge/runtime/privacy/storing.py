"""What a spool stores under `when = "append"`: of a picture nothing but what the filter gave, and no position it takes out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from geal_edge.errors import FrameError
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.live.ring import Glimpse
from geal_edge.runtime.privacy.filter import About, PrivacyFilter
from geal_edge.runtime.privacy.position import placed
from geal_edge.runtime.privacy.rules import NONE, rule_of


def guards_now(privacy: PrivacyFilter | None) -> bool:
    """Whether anything is to be done before a picture is stored."""
    return privacy is not None and rule_of(privacy.config) != NONE and privacy.config.when == "append"


def as_stored(frame: Frame, data: bytes, ending: str, privacy: PrivacyFilter | None) -> tuple[Frame, bytes]:
    """(the frame, the bytes of its file), both as they may be stored. data, ending: of its file as the source has it.

    Raises FrameError `privacy`.
    """
    if privacy is None or not guards_now(privacy):
        return frame, data
    about = About(id=frame.id, source=frame.source, capture_time_ns=frame.capture_time_ns)
    position = privacy.config.position
    data = privacy(data, ending, about, position=position, hook=privacy.has_hook, image=frame.image)
    return replace(frame, metadata=placed(frame.metadata, position)), data


def glimpses_as_stored(
    glimpses: Sequence[Glimpse], id_: str, source: str, privacy: PrivacyFilter | None
) -> Iterator[Glimpse]:
    """Context of the frame `id_` as it may be stored; what the hook fails on is left out."""
    for glimpse in glimpses:
        if privacy is not None and guards_now(privacy):
            about = About(id=id_, source=source, capture_time_ns=glimpse.capture_time_ns)
            position = privacy.config.position
            try:
                data = privacy(glimpse.data, glimpse.ending, about, position=position, hook=privacy.has_hook)
            except FrameError:
                continue
            glimpse = replace(glimpse, data=data)
        yield glimpse
