"""Live sources: what cameras see now, one file per kind of camera. source.py is the place to start reading."""

from geal_edge.runtime.live.opened import is_live, open_live
from geal_edge.runtime.live.pushed import PushedCamera
from geal_edge.runtime.live.source import LiveSource

__all__ = ["LiveSource", "PushedCamera", "is_live", "open_live"]
