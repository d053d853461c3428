"""`geal-edge why`: why a frame was selected, or not."""

import json

from geal_edge.cli.common import FrameId, Json, SpoolFolder
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.why import sentence
from geal_edge.runtime.why import why as explain


def why(
    spool: SpoolFolder,
    id: FrameId,  # noqa: A002
    as_json: Json = False,
) -> None:
    """Say why a frame was selected, or why not; also of frames that were looked at and not retained.

    Example: `geal-edge why spool drive.mp4#120`
    """
    with open_view(spool) as view:
        facts = explain(view, id)
    print(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else f"{id}: {sentence(facts)}")
