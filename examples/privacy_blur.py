"""A privacy hook with OpenCV: blurs boxes that somebody detected, or the lower third of the picture where nobody did.

    [privacy]
    python = "privacy_blur:blur_lower_third"      # with PYTHONPATH=/opt/hooks, where this file lies

    [privacy]
    command = ["/usr/bin/python3", "/opt/hooks/privacy_blur.py"]

The first is faster: OpenCV, and a detector's weights, are loaded once. The second is a process for each picture, which cannot
take geal-edge with it when it fails. A detector of faces and plates is yours: replace `boxes_of`.
"""

import sys
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


def boxes_of(image: Image) -> list[tuple[int, int, int, int]]:
    """(left, top, width, height) in pixels of all that must not be seen. Here: the lower third, where people are near."""
    height, width = image.shape[:2]
    return [(0, height - height // 3, width, height // 3)]


def blur(image: Image, boxes: Sequence[tuple[int, int, int, int]]) -> Image:
    """uint8 [H, W, 3] -> the same with every box made of few grey values, which no filter undoes, unlike a mild blur."""
    blurred = image.copy()
    for left, top, width, height in boxes:
        part = blurred[top : top + height, left : left + width]
        if part.size:
            few = cv2.resize(part, (min(8, part.shape[1]), min(8, part.shape[0])), interpolation=cv2.INTER_AREA)
            blurred[top : top + height, left : left + width] = cv2.resize(few, (part.shape[1], part.shape[0]))
    return blurred


def blur_lower_third(image: Image) -> Image:
    """What [privacy] python names: gets RGB, and returns the same shape and type."""
    return blur(image, boxes_of(image))


def main() -> None:
    """What [privacy] command runs: an image file on stdin, one of the same format on stdout."""
    data = sys.stdin.buffer.read()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        sys.exit("stdin is no image")
    ending = ".png" if data.startswith(b"\x89PNG") else ".webp" if data.startswith(b"RIFF") else ".jpg"
    _, encoded = cv2.imencode(ending, blur_lower_third(image))
    sys.stdout.buffer.write(encoded.tobytes())


if __name__ == "__main__":
    main()
