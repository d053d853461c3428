"""What a report promises of a selection, and how to read it: of a spool its certificate, of picks what farthest-first proves."""

from dataclasses import dataclass
from itertools import pairwise

from geal_edge.runtime.ladder import RADII, Certificate

CHORD = "Distances are chords on the unit sphere: 0 is the same, 1.41 has nothing in common, 2 is the opposite."
BOTH_NUMBERS = (
    "Smaller is better: the first number is what this selection reaches, the second what no choice of so many patches "
    "could beat, not even one made afterwards with everything seen in hand."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What is certified about a selection, and how to read it."""

    sentence: str
    note: str


def spool_promise(certificate: Certificate, *, budget: int, selected: int, round_number: int = 1) -> Promise:
    """The certificate in words: it speaks of the open round, for which all that was released before is covered.

    >>> spool_promise(Certificate(radius=1.05, lower_bound=0.52), budget=50, selected=50).sentence
    'Every knowledge cluster seen lies within chord 1.05 of a selected frame; no 50 single patches could do better than 0.52.'
    """
    if not selected:
        return Promise(sentence="Nothing was judged yet, so nothing is promised.", note=CHORD)
    radius, bound, patches = certificate.radius, certificate.lower_bound, _patches(budget)
    if radius is None:
        sentence = (
            f"No radius is promised: what was seen is too varied for {frames_of(budget)} to cover within chord "
            f"{RADII[-1]:.2f}, the largest radius tried."
        )
        better = f" No {patches} could do better than {bound:.2f}." if bound else ""
        return Promise(sentence=sentence + better, note=CHORD)
    what = f"within chord {radius:.2f} of a selected frame"
    covered = f"Every knowledge cluster seen lies {what}"
    if round_number > 1:
        covered = f"Every knowledge cluster that round {round_number:,} has seen lies {what}, or of one released before"
    if not bound:
        return Promise(
            sentence=f"{covered}.", note=f"No limit is proved to how much better {patches} could do. {CHORD}"
        )
    return Promise(
        sentence=f"{covered}; no {patches} could do better than {bound:.2f}.", note=f"{BOTH_NUMBERS} {CHORD}"
    )


def picks_promise(distances: list[float], *, judged: int, preset: str, known: bool = False) -> Promise:
    """What farthest-first picks prove by themselves: the last pick was the farthest cluster left, so nothing lies farther.

    The picks' witnesses (and one cluster of the first) lie pairwise at least that far apart, and two of them share a centre
    where there are fewer centres than picks: hence half the distance as a bound for one patch less than picks. Nothing is
    said for other presets, nor where distances rise, which farthest-first never does, nor where frames were known before:
    what those cover, the picks need not.

    >>> picks_promise([0.0, 1.2, 0.9], judged=100, preset="geal").sentence
    'Every knowledge cluster seen lies within chord 0.90 of a selected frame; no 2 single patches could do better than 0.45.'
    """
    if not distances:
        return Promise(sentence="No frame was picked, so nothing is promised.", note=CHORD)
    if len(distances) == judged:
        return Promise(sentence="Every frame that could be judged was picked: nothing seen is left out.", note=CHORD)
    falling = all(later <= earlier for earlier, later in pairwise(distances[1:]))
    if known or preset != "geal" or len(distances) < 2 or not falling:
        return Promise(sentence="No radius is promised for these picks.", note=CHORD)
    last, patches = distances[-1], _patches(len(distances) - 1)
    covered = f"Every knowledge cluster seen lies within chord {last:.2f} of a selected frame"
    if not last:
        return Promise(sentence=f"{covered}: what is left out are exact copies.", note=CHORD)
    return Promise(
        sentence=f"{covered}; no {patches} could do better than {last / 2:.2f}.", note=f"{BOTH_NUMBERS} {CHORD}"
    )


def frames_of(n: int) -> str:
    return "1 frame" if n == 1 else f"{n:,} frames"


def _patches(n: int) -> str:
    return "single patch" if n == 1 else f"{n:,} single patches"
