"""`geal-edge repair`: mend a spool."""

import json

from geal_edge.cli.common import Json, SpoolFolder, fail_if
from geal_edge.errors import SpoolDamaged
from geal_edge.runtime.repair import repair as mend
from geal_edge.runtime.repair import repair_json
from geal_edge.runtime.spooldb import DATABASE
from geal_edge.runtime.spoolview import is_sound


def repair(spool: SpoolFolder, as_json: Json = False) -> None:
    """Mend what can be mended of a spool, set aside what cannot be believed, and say exactly what was done. Stop `run` first.

    Example: `geal-edge repair spool`
    """
    mended = mend(spool)
    sound = is_sound(spool)
    if as_json:
        print(json.dumps(repair_json(mended, sound=sound), indent=1, ensure_ascii=False))
    else:
        for each in mended:
            print(f"{each.kind}  {each.detail}: {each.done}")
        if mended and not (spool / DATABASE).exists():
            print(f"{spool}: empty, what it held is in its set-aside/; the next `geal-edge run` begins it anew")
        else:
            print(f"{spool}: {'sound' if sound else 'NOT SOUND'}, {len(mended)} things mended")
    fail_if(not sound, SpoolDamaged.exit_code)
