"""The report's answer to "what would more budget have brought?" for the frames that were not taken."""

from collections.abc import Sequence

from geal_edge.runtime.refusals import BINS
from geal_edge.runtime.report import chart, page
from geal_edge.runtime.report.promise import frames_of

SHARES = (0.9, 0.75, 0.5)
"""Of the radius: what a smaller one would have let in."""


def refused(counts: Sequence[int]) -> str:
    """How new the frames were that were not new enough. counts: of each of BINS shares of the radius (refusals.py)."""
    total = sum(counts)
    if not total:
        return ""
    nearly = sum(counts[round(0.9 * BINS) :])
    lede = (
        f"{frames_of(total)} had nothing beyond the radius then in force. More budget makes that radius smaller, and lets in "
        "what lies right of it. These are estimates, and high ones: frames that are new alike count each, and once one of them "
        "is taken the others are not new any more. What a budget really brings is measured by <code>geal-edge compare</code>."
    )
    rows = [
        (f"{share:.0%} of what it was", f"{n:,}", f"{n / total:.1%}")
        for share in SHARES
        for n in [sum(counts[round(share * BINS) :])]
    ]
    heads = ("with a radius of", "frames within reach", "of those not new")
    return (
        page.begin_section("refused", "Not new enough", lede)
        + chart.histogram(
            counts,
            f"Frames that were not new by their novelty as a share of the radius; {nearly:,} of {total:,} above nine tenths.",
            "frames that were not new",
            "novelty, as a share of the radius",
        )
        + page.as_table("Frames that a smaller radius lets in", heads, rows, numbers=(1, 2))
        + "</section>"
    )
