"""COCO instances: `annotations.json` beside `images/`, as pycocotools and everything that imports COCO read it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geal_edge.runtime.extract.extraction import LABEL, Extraction, one_line, write_items

ANNOTATIONS = "annotations.json"
IMAGES = "images"

CATEGORY = {"id": 1, "name": LABEL, "supercategory": ""}


def write(folder: Path, extraction: Extraction) -> None:
    """Images are numbered by their place among the selected ones. What COCO has no field for stands beside its fields, where
    readers leave it."""
    info = {"description": f"Frames selected by {extraction.selection.producer}", **extraction.made_by}
    with (folder / ANNOTATIONS).open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"info": {one_line(info)},\n"licenses": [],\n"categories": [{one_line(CATEGORY)}],\n"images": ')
        write_items(file, _images(extraction))
        file.write(',\n"annotations": ')
        write_items(file, _annotations(extraction))
        file.write("}\n")


def _images(extraction: Extraction) -> Iterator[dict[str, Any]]:
    for extracted in extraction.frames:
        yield {
            "id": extracted.frame.number,
            "file_name": extracted.file,
            "width": extracted.width,
            "height": extracted.height,
            **({"coco_url": extracted.address} if extracted.address else {}),
            **extracted.facts,
            "untrained": extraction.selection.untrained,
        }


def _annotations(extraction: Extraction) -> Iterator[dict[str, Any]]:
    number = 0
    for extracted in extraction.frames:
        for region in extracted.regions:
            number += 1
            yield {
                "id": number,
                "image_id": extracted.frame.number,
                "category_id": CATEGORY["id"],
                "bbox": list(region.box),
                "area": region.area,
                "segmentation": [[value for corner in region.outline for value in corner]],
                "iscrowd": 0,
                "score": extracted.score,
                "untrained": extraction.selection.untrained,
            }
