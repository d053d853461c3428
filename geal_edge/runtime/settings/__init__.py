"""The configuration of a service: files, environment and flags -> checked values. sections.py says what there is."""

from geal_edge.runtime.settings.reading import Configuration, read_configuration
from geal_edge.runtime.settings.sections import Settings

__all__ = ["Configuration", "Settings", "read_configuration"]
