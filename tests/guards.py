"""Pictures for the guard's tests: textured as real ones are."""

import numpy as np

from geal_edge.runtime.frame import Frame, Image


def street(seed: int) -> Image:
    """uint8 (180, 320, 3) in muted colours, with the spectrum of natural pictures: amplitude falls with frequency."""
    rng = np.random.default_rng(seed)
    down, across = np.fft.fftfreq(180)[:, None], np.fft.rfftfreq(320)
    falling = 1.0 / np.maximum(np.hypot(down, across), 1 / 320) ** 1.1
    light = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(180, 320))) * falling, s=(180, 320))
    lit = 110 + 45 * light[..., None] / light.std() + rng.normal(0, 2, (180, 320, 3))
    return np.asarray(np.clip(lit, 0, 235), np.uint8)


def film(pictures: list[Image], *, topic: str | None = None, source: str = "memory") -> list[Frame]:
    return [
        Frame(
            id=f"{source}#{i}", source=source, frame_index=i, capture_time_ns=i * 40_000_000, image=picture, topic=topic
        )
        for i, picture in enumerate(pictures)
    ]
