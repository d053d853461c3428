"""`geal-edge check`: is this spool sound?"""

import json
from dataclasses import asdict

from geal_edge.cli.common import Json, SpoolFolder, fail_if
from geal_edge.errors import SpoolDamaged
from geal_edge.runtime.spoolview import CHECK_SCHEMA, open_view


def check(spool: SpoolFolder, as_json: Json = False) -> None:
    """Check that a spool is sound: database, files, counters, levels, memory. Changes nothing; `geal-edge repair` mends.

    Example: `geal-edge check spool`
    """
    with open_view(spool, untouched=True) as view:
        problems = view.check()
        frames, _ = view.counts()
        untrained = " (UNTRAINED weights)" if view.untrained else ""
    sound = all(problem.harmless for problem in problems)
    if as_json:
        found = [asdict(problem) for problem in problems]
        print(json.dumps({"schema": CHECK_SCHEMA, "sound": sound, "problems": found}, indent=1, ensure_ascii=False))
    else:
        for problem in problems:
            print(f"{'note' if problem.harmless else 'DAMAGE'}  {problem.kind}  {problem.detail}")
        verdict = "sound" if sound else "NOT SOUND"
        print(f"{spool}{untrained}: {verdict}, {frames['retained']} retained frames, {frames['seen']} seen")
    fail_if(not sound, SpoolDamaged.exit_code)
