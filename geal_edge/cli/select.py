"""`geal-edge select`: the paper's pool selection over recorded sources."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from geal_edge.cli.common import (
    BackendChoice,
    BundleFolder,
    Fps,
    Group,
    Guard,
    Name,
    Quiet,
    Terminal,
    Threads,
    Topics,
    Unverified,
    open_encoder,
    open_sources,
    require_writable_place,
    say_notes,
    stopping_well,
    untrained_note,
)
from geal_edge.config import (
    PRESETS,
    SELECTIONS,
    ClusterConfig,
    Downsampling,
    Metric,
    Preset,
    RatioRule,
    Reduction,
    Sampling,
    SelectionConfig,
    Strategy,
)
from geal_edge.errors import Interrupted, UsageError
from geal_edge.models.bundle import Manifest
from geal_edge.runtime import pool
from geal_edge.runtime.features import Features, LateEncoder

CLUSTERS = "Knowledge clusters (default: the bundle's recipe)"
SELECTION = "Selection"
REUSE = "What is there already"


def select(
    bundle: BundleFolder,
    budget: Annotated[int, typer.Option("-n", "--budget", min=1, help="Frames (with --group: units) to pick.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Folders of images, globs, videos, ROS bags, or `drawn:SEED`. With --features: default is all stored.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picks file to write.")] = Path("picks.json"),
    fps: Fps = None,
    topic: Topics = None,
    group: Group = None,
    name: Name = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Store what the model says of every frame here, or take it from here: another selection costs no inference.",
            rich_help_panel=REUSE,
        ),
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Counts as covered and is not picked: a picks file, a spool, a memory, stored features, a label export, or a "
            "folder of images. Again for more.",
            rich_help_panel=REUSE,
        ),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="Sets all of the following: geal (the paper), freesel (K 5, Euclidean K-Means, drawn by distance), "
            "pet (the paper's for classification: K 1). Default: the bundle's.",
            rich_help_panel=SELECTION,
        ),
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="The method, or what it is measured against: at random, evenly in time, every n-th frame, "
            "K-Center-Greedy over one vector per frame. Or another goal: the smallest mean distance, or farthest first "
            "where frames are many.",
            rich_help_panel=SELECTION,
        ),
    ] = "geal",
    metric: Annotated[
        Metric | None,
        typer.Option(
            help="Distance of the selection. Euclidean is over raw fp32 clusters, and may differ between machines.",
            rich_help_panel=SELECTION,
        ),
    ] = None,
    sampling: Annotated[
        Sampling | None,
        typer.Option(help="The farthest frame, or one drawn by squared distance.", rich_help_panel=SELECTION),
    ] = None,
    reduction: Annotated[
        Reduction | None,
        typer.Option(
            help="A frame is as far as its farthest cluster (Eq. 4), or as their mean (Eq. 5).",
            rich_help_panel=SELECTION,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Draws the first frame, and what else is drawn; all others follow from it.",
            rich_help_panel=SELECTION,
        ),
    ] = 0,
    first: Annotated[
        str | None, typer.Option(metavar="ID", help="Begin with this frame instead.", rich_help_panel=SELECTION)
    ] = None,
    attention_ratio: Annotated[
        float | None,
        typer.Option(help="Share of the attention that a frame's patches must carry.", rich_help_panel=CLUSTERS),
    ] = None,
    ratio_rule: Annotated[
        RatioRule | None,
        typer.Option(
            help="Take the patch that crosses the ratio (the authors' code), or not (Eq. 2).", rich_help_panel=CLUSTERS
        ),
    ] = None,
    clusters_per_frame: Annotated[
        int | None, typer.Option(help="K: clusters of a frame at most.", rich_help_panel=CLUSTERS)
    ] = None,
    kmeans_metric: Annotated[
        Metric | None, typer.Option(help="Distance within a frame.", rich_help_panel=CLUSTERS)
    ] = None,
    downsampling: Annotated[
        Downsampling | None,
        typer.Option(
            help="Instead of clusters, as the paper's ablation: the feature map resized (A1), random patches (A2), random "
            "distilled ones (A3), the most attended ones (A4).",
            rich_help_panel=CLUSTERS,
        ),
    ] = None,
    guard: Guard = None,
    backend: BackendChoice = "ort-cpu",
    unverified: Unverified = False,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Pick frames to label from recorded sources, all at once (the paper's way).

    Example: `geal-edge select drives/*.mp4 --fps 2 --bundle bundle -n 50 -o picks.json`

    Another selection at no cost: `geal-edge select drives/*.mp4 --fps 2 --bundle bundle -n 50 --features features`, then
    the same with other settings.

    Cameras whose stamps lie within 0.05 s as one: `geal-edge select drive.mcap --group 0.05 --bundle bundle -n 50`
    """
    if not sources and features is None:
        raise UsageError("no SOURCE was named. Name one, or a --features folder in which some are stored.")
    require_writable_place(out)
    opened = open_sources(sources or [], name=name, fps=fps, topics=topic, group_s=group)
    with ExitStack() as stack:
        watch, stop = stack.enter_context(Terminal(quiet=quiet)), stack.enter_context(stopping_well())
        encoder = stack.enter_context(
            LateEncoder(open_encoder(bundle, threads, backend, unverified=unverified, watch=watch))
        )
        manifest = encoder.bundle.manifest
        recipe = _recipe(manifest, preset, attention_ratio, ratio_rule, clusters_per_frame, kmeans_metric, downsampling)
        config = _config(manifest, preset, strategy, metric, sampling, reduction)
        store = None if features is None else stack.enter_context(Features(features, manifest, writable=True))
        say_notes(opened, watch)
        if config.metric == "euclidean":
            watch.warn(
                "--metric euclidean measures raw fp32 clusters: other machines may pick otherwise where distances tie."
            )
        selection = pool.select(
            opened,
            encoder=encoder,
            budget=budget,
            group_s=group,
            seed=seed,
            first=first,
            recipe=recipe,
            config=config,
            features=store,
            known=known or [],
            guard=guard,
            watch=watch,
            stop=stop,
        )
        named: Sequence[pool.NamedSource] = opened
        if not opened and store is not None:
            named = list(store.sources.values())
        picks = pool.picks_json(selection, named, encoder.bundle, budget=budget, seed=seed)
        pool.write_picks(out, picks)
        frames = picks["frames"]
        already = known_words(frames["known"], picks["known"])
        gated = f", {frames['gated']} gated" if guard else ""
        units = "" if group is None else f" in {len(selection.picks)} units"
        watch.say(
            f"{frames['selected']} of {frames['seen']} frames selected{units}{already}{gated}, "
            f"{frames['lost']} lost: {out}"
        )
        what = "frames" if group is None else "units"
        if selection.cut:
            raise Interrupted(
                f"Stopped after {len(selection.picks)} of {budget} picks. {out} has them, and says that it was cut: it is the "
                f"selection of {len(selection.picks)} {what}."
            )
        if len(selection.picks) < budget:
            which = "could be judged and were not known" if known else "could be judged"
            watch.warn(f"only {len(selection.picks)} {what} {which}, so all of them are in the order.")
        untrained_note(manifest.untrained, watch)
        watch.say(f"\nNext: geal-edge report {out} -o report.html")


def _recipe(
    manifest: Manifest,
    preset: Preset | None,
    attention_ratio: float | None,
    ratio_rule: RatioRule | None,
    clusters_per_frame: int | None,
    kmeans_metric: Metric | None,
    downsampling: Downsampling | None,
) -> ClusterConfig:
    base = manifest.clusters if preset is None else PRESETS[preset]
    given = {
        "attention_ratio": attention_ratio,
        "ratio_rule": ratio_rule,
        "clusters_per_frame": clusters_per_frame,
        "kmeans_metric": kmeans_metric,
        "downsampling": downsampling,
    }
    return replace(base, **_set(given))


def _config(
    manifest: Manifest,
    preset: Preset | None,
    strategy: Strategy,
    metric: Metric | None,
    sampling: Sampling | None,
    reduction: Reduction | None,
) -> SelectionConfig:
    # A baseline takes nothing of a preset but its clusters; what is given with it all the same is refused.
    base = SELECTIONS.get(preset or manifest.preset, SelectionConfig()) if strategy == "geal" else SelectionConfig()
    return replace(base, strategy=strategy, **_set({"metric": metric, "sampling": sampling, "reduction": reduction}))


def _set(options: dict[str, Any]) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def known_words(in_pool: int, paths: Sequence[dict[str, Any]]) -> str:
    """How many frames of the pool are known; a label export's pictures may cover it though none of them is in it.

    >>> known_words(2, [{"frames": 2}])
    ', 2 known'
    >>> known_words(0, [{"frames": 31}])
    ', 0 known (31 known frames from elsewhere count as covered)'
    """
    if not paths:
        return ""
    elsewhere = sum(path["frames"] for path in paths) - in_pool
    return f", {in_pool} known" + (
        f" ({elsewhere} known frames from elsewhere count as covered)" if elsewhere > 0 else ""
    )
