"""CVAT for images 1.1: `annotations.xml` beside `images/`, and `labels.json`, the labels that a CVAT task must have for it.

Of objects in a bucket, or files of a share, `manifest.jsonl` names them with their sizes: a task is made without reading one.
Each picture has one tag, `selected frame`, with what is known of it as attributes, and a polygon for each region.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from geal_edge.runtime.extract.extraction import LABEL, ExtractedFrame, Extraction, one_line

ANNOTATIONS = "annotations.xml"
LABELS = "labels.json"
MANIFEST = "manifest.jsonl"
IMAGES = "images"

TAG = "selected frame"
TAG_ATTRIBUTES = ("order", "frame_id", "source", "frame_index", "capture_time_ns", "distance", "novelty", "untrained")
REGION_ATTRIBUTES = ("score", "untrained")

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(folder: Path, extraction: Extraction) -> None:
    with (folder / ANNOTATIONS).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in _lines(extraction))
    (folder / LABELS).write_text(json.dumps(_labels(), indent=1) + "\n", encoding="utf-8")
    if any(extracted.address is not None for extracted in extraction.frames):
        with (folder / MANIFEST).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{one_line(line)}\n" for line in _manifest(extraction))


def _manifest(extraction: Extraction) -> Iterator[dict[str, Any]]:
    """A name goes without its ending; names are those in the bucket, so the manifest belongs at its top."""
    yield {"version": "1.1"}
    yield {"type": "images"}
    for extracted in extraction.frames:
        name, dot, ending = extracted.file.rpartition(".")
        yield {"name": name, "extension": dot + ending, "width": extracted.width, "height": extracted.height}


def _labels() -> list[dict[str, Any]]:
    """What CVAT's label constructor takes under "Raw"."""
    return [
        {"name": name, "type": kind, "attributes": [_attribute(attribute) for attribute in attributes]}
        for name, kind, attributes in ((TAG, "tag", TAG_ATTRIBUTES), (LABEL, "polygon", REGION_ATTRIBUTES))
    ]


def _attribute(name: str) -> dict[str, Any]:
    return {"name": name, "mutable": False, "input_type": "text", "default_value": "", "values": [""]}


def _lines(extraction: Extraction) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield "<annotations>"
    yield "  <version>1.1</version>"
    yield f"  <meta>\n    <task>\n      <name>{_text(extraction.name)}</name>"
    yield f"      <size>{len(extraction.frames)}</size>\n      <mode>annotation</mode>\n      <overlap>0</overlap>"
    yield "      <labels>"
    for label in _labels():
        yield f"        <label>\n          <name>{label['name']}</name>\n          <type>{label['type']}</type>"
        yield "          <attributes>"
        for attribute in label["attributes"]:
            yield (
                f"            <attribute><name>{attribute['name']}</name><mutable>False</mutable>"
                "<input_type>text</input_type><default_value></default_value><values></values></attribute>"
            )
        yield "          </attributes>\n        </label>"
    yield "      </labels>\n    </task>\n  </meta>"
    for number, extracted in enumerate(extraction.frames):
        yield from _image(number, extracted, extraction.selection.untrained)
    yield "</annotations>"


def _image(number: int, extracted: ExtractedFrame, untrained: bool) -> Iterator[str]:
    """CVAT finds a picture by its name; the number is its place in the task, which is the selected order."""
    yield (
        f'  <image id="{number}" name={quoteattr(extracted.file)} '
        f'width="{extracted.width}" height="{extracted.height}">'
    )
    yield f'    <tag label="{TAG}" source="auto">'
    known = {**extracted.facts, "untrained": untrained}
    for name in TAG_ATTRIBUTES:
        yield _value(name, known[name])
    yield "    </tag>"
    for region in extracted.regions:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in region.outline)
        yield f'    <polygon label="{LABEL}" source="auto" occluded="0" points="{points}" z_order="0">'
        yield _value("score", extracted.score)
        yield _value("untrained", untrained)
        yield "    </polygon>"
    yield "  </image>"


def _value(name: str, value: object) -> str:
    """An attribute, as text: CVAT's checkboxes and numbers would need ranges. Empty where there is none."""
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f'      <attribute name="{name}">{_text(text)}</attribute>'


def _text(text: str) -> str:
    """Text for XML, which has no way to say most control characters: they become backslash escapes."""
    return escape(_NOT_IN_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
