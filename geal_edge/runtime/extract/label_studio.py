"""Label Studio: `tasks.json` with the regions as predictions, and `label_config.xml`, the labelling interface they need.

Pictures are named by the address under which Label Studio serves local files, from the folder that holds the extraction, or the
folder that was uploaded to: LOCAL_FILES_DOCUMENT_ROOT is that folder (docs/labelling.md). Objects of a bucket have its URL, which
Label Studio signs through a storage of the project.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from geal_edge.runtime.extract.extraction import LABEL, ExtractedFrame, Extraction, write_items

TASKS = "tasks.json"
CONFIG = "label_config.xml"
IMAGES = "images"

CONTROL, OBJECT = "novel_region", "image"

_SCHEMES = {"az": "azure-blob"}
"""What Label Studio calls a store otherwise than we do."""
_CONFIG = f"""\
<View>
  <Header value="$frame_id"/>
  <Image name="{OBJECT}" value="$image" zoom="true" zoomControl="true"/>
  <PolygonLabels name="{CONTROL}" toName="{OBJECT}" strokeWidth="3" opacity="0.2">
    <Label value="{LABEL}" background="#ff7a00"/>
  </PolygonLabels>
</View>
"""


def write(folder: Path, extraction: Extraction) -> None:
    with (folder / TASKS).open("w", encoding="utf-8", newline="\n") as file:
        write_items(file, _tasks(extraction))
        file.write("\n")
    (folder / CONFIG).write_text(_CONFIG, encoding="utf-8")


def _tasks(extraction: Extraction) -> Iterator[dict[str, Any]]:
    for extracted in extraction.frames:
        yield {
            "data": {
                OBJECT: _address(extracted, extraction),
                **extracted.facts,
                "untrained": extraction.selection.untrained,
            },
            "predictions": _predictions(extracted, extraction),
        }


def _address(extracted: ExtractedFrame, extraction: Extraction) -> str:
    if extracted.address is not None and "://" in extracted.address:
        scheme, _, rest = extracted.address.partition("://")
        return f"{_SCHEMES.get(scheme, scheme)}://{rest}"
    path = extracted.address or f"{extraction.name}/{IMAGES}/{extracted.file}"
    return f"/data/local-files/?d={quote(path, errors='surrogateescape')}"


def _predictions(extracted: ExtractedFrame, extraction: Extraction) -> list[dict[str, Any]]:
    result = [
        {
            "id": f"{extracted.frame.number}-{number}",
            "type": "polygonlabels",
            "from_name": CONTROL,
            "to_name": OBJECT,
            "original_width": extracted.width,
            "original_height": extracted.height,
            "image_rotation": 0,
            "score": extracted.score,
            "value": {
                "points": [_percent(corner, extracted) for corner in region.outline],
                "closed": True,
                "polygonlabels": [LABEL],
            },
        }
        for number, region in enumerate(extracted.regions, start=1)
    ]
    if not result:
        return []
    untrained = " untrained" if extraction.selection.untrained else ""
    version = f"{extraction.selection.producer} {extraction.selection.bundle[:19]}{untrained}"
    return [{"model_version": version, "score": extracted.score, "result": result}]


def _percent(corner: tuple[float, float], extracted: ExtractedFrame) -> list[float]:
    x, y = corner
    return [round(100.0 * x / extracted.width, 4), round(100.0 * y / extracted.height, 4)]
