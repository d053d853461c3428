"""`geal-edge export`: a checkpoint becomes a bundle."""

import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from geal_edge.cli.build import say_built
from geal_edge.cli.common import (
    Quiet,
    Terminal,
    backends_of,
    fail_if,
    machine_state,
    stopping_well,
    untrained_note,
)
from geal_edge.cli.verify import say_verification
from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD, SIZES, Precision, ResizeFilter
from geal_edge.errors import MissingDependency, ParityError, UsageError
from geal_edge.export import engine
from geal_edge.models.bundle import Bundle
from geal_edge.models.named import DEFAULT, NAMED, Shelves, obtain_weights
from geal_edge.models.weights import UNTRAINED
from geal_edge.runtime import verify as verifying
from geal_edge.runtime.records import write_record
from geal_edge.runtime.sources import Source, open_source

Triple = tuple[float, float, float]
PRECISION = "Precision"


def export(
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            "-w",
            help=f"Checkpoint file (.safetensors, .pth, .bin), a name that is fetched ({', '.join(NAMED)}), "
            "or `untrained:SEED`.",
        ),
    ] = DEFAULT,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Bundle folder to write. Default: named by weights and size, `dino_vits16-224x224`."
        ),
    ] = None,
    size: Annotated[str, typer.Option(help=f"Input size, WIDTHxHEIGHT in pixels, or {', '.join(SIZES)}.")] = "voc",
    batch: Annotated[int | None, typer.Option(min=1, help="Fixed batch size. Default: any.")] = None,
    output: Annotated[
        Literal["features", "clusters"],
        typer.Option(
            help="Where the graph ends: at the tokens, or at the knowledge clusters (docs/clusters-in-the-graph.md)."
        ),
    ] = "features",
    no_cls: Annotated[bool, typer.Option("--no-cls", help="Leave out the `cls_embedding` output.")] = False,
    tap: Annotated[
        Literal["norm", "raw"],
        typer.Option(help="Patch features after the final LayerNorm (the authors' code), or before it."),
    ] = "norm",
    resize: Annotated[
        ResizeFilter, typer.Option(help="How frames become the input: Pillow's bicubic, or OpenCV's faster area.")
    ] = "pil_bicubic",
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Of the training, 0..1. Default: ImageNet's.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Of the training, 0..1. Default: ImageNet's.")
    ] = None,
    check: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Take the reference frames from here. Default: drawn ones.")
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Inside the graph: fp16 and int8 for GPUs (int8 for CPUs too), int8-dynamic for CPUs alone.",
            rich_help_panel=PRECISION,
        ),
    ] = "fp32",
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Frames as the vehicle sees them: int8 takes its ranges from those that we select from it, and every "
            "precision but fp32 must select as well there as fp32 does.",
            rich_help_panel=PRECISION,
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="What lowering may cost: the most sensitive layers stay fp32 until the others cost no more. Default: "
            "fp16 0.001, int8 0.004.",
            rich_help_panel=PRECISION,
        ),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="Print what lowering each layer costs.", rich_help_panel=PRECISION),
    ] = False,
    with_engine: Annotated[
        bool,
        typer.Option(
            "--engine", help="Also build a TensorRT plan for the GPU of this machine, and let it answer for itself."
        ),
    ] = False,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the checkpoint file must have, fetched or not.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Fetch nothing: named weights must be in the cache (HF_HOME).")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Turn a checkpoint into a bundle: ONNX graph, its check against float64, manifest.

    Example: `geal-edge export --size 448x224 --out bundle`

    For a CPU: `geal-edge export --precision int8-dynamic --calibrate drive.mp4 --sensitivity --out bundle-int8`

    For an engine with no Python behind it: `geal-edge export --output clusters --out bundle-clusters`

    On the machine that will run it: `geal-edge export --size 448x224 --precision fp16 --calibrate drive.mp4 --engine`

    Without a way out: `geal-edge export --weights dino_deitsmall16_pretrain.pth --size 448x224 --out bundle`
    """
    exporter, _ = machinery()
    if with_engine:
        engine.require_machine(precision)
    width, height = parse_size(size)
    out = out or Path(f"{bundle_name(weights)}-{width}x{height}")
    model = NAMED.get(weights)
    options = exporter.ExportOptions(
        width=width,
        height=height,
        batch=batch,
        cls_embedding=not no_cls,
        clusters=output == "clusters",
        tap=tap,
        resize=resize,
        mean=parse_triple("--mean", mean, model.mean if model else IMAGENET_MEAN),
        std=parse_triple("--std", std, model.std if model else IMAGENET_STD),
        precision=precision,
        max_loss=max_loss,
    )
    with Terminal(quiet=quiet) as watch:
        watch.say(f"{weights} -> {out}, input {width} wide x {height} high")
        exporter.require_free_place(out)  # before anything is fetched
        source = None if check is None else open_source(check)
        frames = None if calibrate is None else open_source(calibrate)
        exporter.require_calibration(options, frames)
        loaded = obtain_weights(weights, Shelves.of(os.environ, offline=offline), sha256=sha256, watch=watch)
        watch.say(f"{loaded.geometry.name} from {loaded.origin}")
        if loaded.dropped:
            watch.warn(f"left out, as no backbone needs it: {', '.join(loaded.dropped)}")
        exported = exporter.export(loaded, out, options, check=source, calibrate=frames, watch=watch)
        bundle, parity, lowered = exported.bundle, exported.parity, exported.lowered
        if lowered is not None:
            if sensitivity:
                watch.say(f"{lowered.sensitivity}\n")
            stays = ", ".join(lowered.sensitivity.stays_fp32) or "nothing"
            watch.say(f"{precision}, calibrated on {lowered.origin} ({lowered.frames} frames); stays fp32: {stays}")
        if exported.selection is not None:
            watch.say(_indented(str(exported.selection)))
        watch.say(f"checked against float64 on {parity.frames} frames:\n{_indented(str(parity))}")
        watch.say(f"bundle {out} ({bundle.digest[:19]}, feature space {bundle.manifest.feature_space})")
        untrained_note(loaded.untrained, watch)
        if with_engine:
            _build_and_verify(bundle, frames, watch)
        how = " --backend tensorrt" if with_engine else ""
        watch.say(f"\nNext: geal-edge run SOURCE --bundle {out} --spool spool --budget 50{how}")


def _build_and_verify(bundle: Bundle, check: Source | None, watch: Terminal) -> None:
    """What `build` and then `verify --backend tensorrt` do. Ends with ParityError's code where the plan answers wrong."""
    state = machine_state()
    with stopping_well() as stop:
        say_built(engine.build(bundle, state, watch=watch, stop=stop), watch)
    verification = verifying.verify(bundle, "tensorrt", backends_of(bundle, state), check=check, watch=watch)
    path = write_record(state, bundle, verification, wall_ns=time.time_ns())
    say_verification(verification, bundle, path, watch)
    fail_if(not verification.passed, ParityError.exit_code)


def bundle_name(weights: str) -> str:
    """The first part of a bundle's name where none was given.

    >>> bundle_name("drives/dino_deitsmall16_pretrain.pth"), bundle_name("untrained:0")
    ('dino_deitsmall16_pretrain', 'untrained-0')
    """
    return weights.replace(":", "-") if weights.startswith(UNTRAINED) else Path(weights).stem or "bundle"


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of `448x224` or of one of the paper's names. Raises UsageError."""
    if text in SIZES:
        return SIZES[text]
    width, _, height = text.lower().partition("x")
    if width.isdecimal() and height.isdecimal():
        return int(width), int(height)
    raise UsageError(f"--size {text}: expected WIDTHxHEIGHT in pixels (448x224), or one of {', '.join(SIZES)}.")


def parse_triple(option: str, text: str | None, default: Triple) -> Triple:
    """Three numbers between 0 and 1, separated by commas. Raises UsageError."""
    if text is None:
        return default
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: expected three numbers, red,green,blue, such as 0.5,0.5,0.5.") from None
    if not all(0.0 < value <= 1.0 for value in (red, green, blue)):
        raise UsageError(
            f"{option} {text}: each number must be above 0 and at most 1 (pixel values are scaled to 0..1)."
        )
    return red, green, blue


def machinery() -> Any:
    """(the exporter module, `load_weights`): imported late, as their libraries are an extra. Raises MissingDependency."""
    try:
        from geal_edge.export import exporter
        from geal_edge.models.weights import load_weights
    except ImportError as error:
        raise MissingDependency(
            f"{error.name} is not installed, and `export` needs it. Install it with: pip install 'geal-edge[export,cpu]'"
        ) from error
    return exporter, load_weights


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
