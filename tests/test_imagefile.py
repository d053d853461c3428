"""What the spool stores of a frame that has no file bytes of its own."""

import io
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

from geal_edge.runtime.imagefile import encode


@pytest.fixture(params=["with OpenCV", "without"])
def libraries(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "cv2", None)
    else:
        pytest.importorskip("cv2")


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("flipped", [False, True])
def test_a_jpeg_is_the_picture_whichever_library_wrote_it(flipped):
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:64, None], ramp, ramp[::-1]), axis=-1)
    image = image[::-1] if flipped else image
    read = np.asarray(Pillow.open(io.BytesIO(encode(image, "jpg"))))
    assert read.shape == image.shape
    assert np.abs(read.astype(int) - image).mean() < 3.0
