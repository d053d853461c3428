"""geal-edge: choose, on the vehicle, the few frames that are worth labelling."""

__version__ = "0.1.0"
