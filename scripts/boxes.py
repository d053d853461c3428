"""Draw the boxes of a COCO extraction on its first pictures: python scripts/boxes.py EXTRACTION OUT.webp

What is drawn is what the file says, read as a labelling tool would read it: nothing of geal-edge is imported. Needs Pillow.
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

COLUMNS, ROWS = 4, 2
WIDTH = 314  # of one picture: four and their gaps are 1280 wide
GAP = 8


def main(extraction: Path, out: Path) -> None:
    coco = json.loads((extraction / "annotations.json").read_bytes())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    pictures = [_drawn(extraction, image, coco["annotations"], names) for image in coco["images"][: COLUMNS * ROWS]]
    height = max(picture.height for picture in pictures)
    sheet = Image.new(
        "RGB", (COLUMNS * (WIDTH + GAP) - GAP, -(-len(pictures) // COLUMNS) * (height + GAP) - GAP), "white"
    )
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % COLUMNS * (WIDTH + GAP), i // COLUMNS * (height + GAP)))
    sheet.save(out, quality=85)
    print(out)


def _drawn(extraction: Path, image: dict, annotations: list[dict], names: dict[int, str]) -> Image.Image:
    with Image.open(extraction / "images" / image["file_name"]) as opened:
        # The file's sizes are those that people see: a picture that lies on its side is turned before it is measured.
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for annotation in annotations:
        if annotation["image_id"] == image["id"]:
            left, top, width, height = annotation["bbox"]
            draw.rectangle((left, top, left + width, top + height), outline="black", width=5)
            draw.rectangle((left + 1, top + 1, left + width - 1, top + height - 1), outline="#ffd21f", width=3)
            words = f"{names[annotation['category_id']]} {annotation['score']:.2f}"
            place = draw.textbbox((min(left, picture.width - 135), max(top - 22, 2)), words, font_size=16)
            draw.rectangle((place[0] - 3, place[1] - 2, place[2] + 3, place[3] + 2), fill="#ffd21f")
            draw.text((place[0], place[1]), words, fill="black", font_size=16, anchor="lt")
    return picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
