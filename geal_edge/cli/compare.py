"""`geal-edge compare`: what a budget buys on recorded drives, beside what doing nothing clever would."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import (
    BundleFolder,
    Fps,
    Json,
    Quiet,
    Terminal,
    open_sources,
    require_writable_place,
    say_notes,
    stopping_well,
    untrained_note,
)
from geal_edge.errors import Interrupted, UsageError
from geal_edge.runtime.compare.comparison import Comparison, label_table
from geal_edge.runtime.compare.comparison import compare as compare_sources
from geal_edge.runtime.compare.labels.table import LabelTable
from geal_edge.runtime.compare.strategies import STRATEGIES
from geal_edge.runtime.compare.table import as_dict, in_what, sentences, tables
from geal_edge.runtime.report.compared import write_comparison


def compare(
    bundle: BundleFolder,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Folders of images, globs, videos, ROS bags, or `drawn:SEED`: a day's data. With --features: default is all "
            "stored.",
        ),
    ] = None,
    budgets: Annotated[
        str, typer.Option(metavar="N,N", help="Frames selected of all sources together.")
    ] = "20,50,100,200",
    strategies: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help=f"{', '.join(STRATEGIES)}. Default: all.",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V,V",
            help="Also GEAL with other settings, in all combinations: attention_ratio, clusters_per_frame, preset, bundle. "
            "Measured in the first bundle's clusters, as all else.",
        ),
    ] = None,
    fps: Fps = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Features that `select --features` stored. Default: encode into --out, once."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder for all that is worked out; the same command goes on from there.",
        ),
    ] = Path("comparison"),
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Also what is found of these labels: masks, VOC XML, COCO JSON, YOLO. With one SOURCE, or --features, probes "
            "are trained on what is selected, and tested on a quarter of the frames, which is held out of all else.",
        ),
    ] = None,
    class_list: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names (and colours) of the labels' classes, where none lie beside them."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE", help="Also write one self-contained page: curves, tables, what each found and missed."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes: drives and strategies side by side. Default: the CPUs.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what each budget covers on recorded drives, by every strategy.

    Example: `geal-edge compare drives/*.mp4 --fps 5 --bundle bundle --budgets 20,50,100,200 --report compare.html`

    Other settings, and the bundle before this one: `geal-edge compare drives/*.mp4 --fps 5 --bundle new
    --strategies geal --sweep attention_ratio=0.3,0.5,0.7 --sweep bundle=old,new`

    Where labels exist: `geal-edge compare frames/ --bundle bundle --budgets 20,50 --labels masks/`
    """
    cpus = len(os.sched_getaffinity(0))
    if report is not None:
        require_writable_place(report)
    if labels is not None and not labels.exists():  # they are read last, which may be hours from now
        raise UsageError(f"--labels {labels}: no such file or folder")
    opened = open_sources(sources or [], name=None, fps=fps)
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        say_notes(opened, watch)
        comparison = compare_sources(
            opened,
            bundle=bundle,
            budgets=numbers("--budgets", budgets),
            strategies=strategies.split(",") if strategies else (),
            sweeps=sweep or (),
            features=features,
            out=out,
            hold_out=labels is not None,
            processes=jobs or cpus,
            threads=cpus,
            watch=watch,
            stop=stop,
        )
        if labels is not None and comparison.features is None:
            watch.warn("no probes: they read stored features from one folder. Name one SOURCE, or --features.")
        found = None
        if labels is not None and not comparison.cut:
            found = label_table(comparison, labels, class_list=class_list, watch=watch)
        if report is not None:
            write_comparison(comparison, report, labels=found, watch=watch)
        if json_:
            told = as_dict(comparison) | ({} if found is None else {"labels": found.as_dict()})
            print(json.dumps(told, indent=1, ensure_ascii=False))
        else:
            _say(comparison, found, watch)
            if report is not None:
                watch.say(f"The page is {report}.")
        untrained_note(comparison.untrained, watch)
        if comparison.cut:
            raise Interrupted(f"Stopped: this is what was worked out so far. The same command goes on from {out}.")


def numbers(option: str, text: str) -> list[int]:
    """Raises UsageError where a word is no whole number.

    >>> numbers("--budgets", "20,50")
    [20, 50]
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: must be whole numbers with commas between them, as 20,50,100") from error


def _say(comparison: Comparison, labels: LabelTable | None, watch: Terminal) -> None:
    watch.say(in_what(comparison))
    watch.say("Medians; in brackets the 10th to 90th percentile, where a strategy was drawn several times.")
    for line in tables(comparison):
        watch.say(line)
    watch.say()
    for sentence in sentences(comparison):
        watch.say(sentence)
    if labels is not None:
        watch.say(f"\n{labels.text()}")
    stored = ""
    if comparison.stored_s:
        times = comparison.stored_s / comparison.run_s
        stored = f"; what it found stored had taken {comparison.stored_s:.1f} s of work, {times:,.0f} times as long"
    watch.say(f"\nEncoding and covers took {comparison.run_s:.2f} s{stored}.")
