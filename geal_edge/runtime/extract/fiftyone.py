"""FiftyOne: `data/` and `labels.json`, its FiftyOneImageDetectionDataset layout.

Samples are keyed by the picture's name without its ending. The layout has fields for detections only: what is known of a
frame stands with each of its regions; `frames.jsonl` has it for the first frame too, which has none.
"""

from pathlib import Path
from typing import Any

from geal_edge.runtime.extract.extraction import LABEL, ExtractedFrame, Extraction, one_line

LABELS = "labels.json"
IMAGES = "data"


def write(folder: Path, extraction: Extraction) -> None:
    with (folder / LABELS).open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"classes": [{one_line(LABEL)}],\n"labels": {{')
        separator = "\n"
        for extracted in extraction.frames:
            detections = _detections(extracted, extraction.selection.untrained)
            file.write(f"{separator}{one_line(Path(extracted.file).stem)}: {one_line(detections)}")
            separator = ",\n"
        file.write("\n}}\n")


def _detections(extracted: ExtractedFrame, untrained: bool) -> list[dict[str, Any]]:
    across, down = extracted.width, extracted.height
    attributes = {name: value for name, value in extracted.facts.items() if value is not None}
    return [
        {
            "label": 0,
            "bounding_box": [
                round(share, 6)
                for share in (
                    region.box[0] / across,
                    region.box[1] / down,
                    region.box[2] / across,
                    region.box[3] / down,
                )
            ],
            "confidence": extracted.score,
            "attributes": {**attributes, "untrained": untrained},
        }
        for region in extracted.regions
    ]
