"""Write what docs/service.md says of every key, and docs/metrics.md of every metric, anew from the code behind them.

python scripts/config_reference.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs" / "service.md", ROOT / "docs" / "metrics.md")
BEGIN, END = "<!-- reference: scripts/config_reference.py writes this -->\n", "<!-- end of the reference -->\n"


def written_anew(file: Path) -> str:
    from geal_edge.runtime import metrics
    from geal_edge.runtime.settings import reference

    tables = {"service.md": reference.table, "metrics.md": metrics.table}
    before, _, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{file}: has no place for the reference")
    return before + BEGIN + "\n" + "\n".join([*tables[file.name]()]) + END + after


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for each in PAGES:
        each.write_text(written_anew(each))
