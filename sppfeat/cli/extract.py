"""``sppfeat extract``: writes the descriptors of images or boxes to a feature file."""

import contextlib
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

import sppfeat
from sppfeat.cli import options
from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.command import command
from sppfeat.cli.extract_options import CHANNELS, box_options, path_options, ray_options, shard_options
from sppfeat.cli.groups import EXIT_INTERRUPTED, EXIT_SOME_FAILED, Stop, leave
from sppfeat.cli.option_types import ANY_PATH
from sppfeat.cli.options import flag, option, path, setting
from sppfeat.cli.output import print_json, print_json_or_text, say, terminal_columns
from sppfeat.cli.run_texts import plan_text, result_text, take_new_hints
from sppfeat.config.distribution import RunOptions
from sppfeat.config.machine import keep_freed_memory
from sppfeat.config.request import Request
from sppfeat.config.specs import (
    DEFAULT_BOX_SIZE,
    DEFAULT_LEVELS,
    DEFAULT_SIZE,
    MAX_ROUND_TO,
    NORMALIZATIONS,
    DescriptorSpec,
    InputSpec,
)

if TYPE_CHECKING:
    from sppfeat.config.extract_config import ExtractConfig
    from sppfeat.extraction.extract import ExtractResult
    from sppfeat.extraction.pipeline import Progress
    from sppfeat.extraction.report import PlanSummary

__all__ = ["extract"]


_GROUPS = {
    "Inputs and labels": "--labels --exclude | --include --encoding",
    "Output and resume": "--output --overwrite --update --retry-failed --dry-run | --add-new "
    "--update-changed",
    "Network": "--backbone --weights --layer | --weights-dir --seed --mean --std --head",
    "Input size": "--size | --max-pixels --round-to --decode --exif --flip",
    "Pyramid": "--levels --pool --normalize | --normalize-from --dtype --allow-nonfinite",
    "Boxes": "--boxes --box-style | --scales --box-format --box-label --box-names --box-images "
    "--box-categories --box-coords --box-units --box-origin --box-ends --box-order --projection "
    "--margin --drop-duplicates",
    "Running": "--device --precision --batch-size --workers --json --verbose --quiet | --compile --fail-fast "
    "--max-decode-pixels --headers --scratch",
    "Splitting": "--shard | --shard-size --shared",
    "Ray": "--engine | --ray-address --actors --gpus-per-actor --cpus-per-actor --copy",
}


@command(
    examples=(
        "sppfeat extract photos -o features.h5",
        "sppfeat extract photos -o features.h5 --backbone resnet50 --normalize l2",
        "sppfeat extract photos -o regions.h5 --boxes annotations.json",
        "sppfeat extract photos -o 'part-{shard}.h5' --shard 1/8",
    ),
    groups=_GROUPS,
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=ANY_PATH)
@options.output("HDF5 file to write or continue.")
@option(
    "--labels",
    type=click.Choice(["auto", "folder", "parent", "none"]),
    default="auto",
    metavar="SOURCE",
    help="Class labels: auto, folder (top level), parent (of each image) or none.",
)
@options.encoding("text tables, lists and box files")
@path_options
@options.backbone
@option("--head", help="Run the network's fully connected layers on each pooled region (vgg*, alexnet).")
@option(
    "--mean",
    type=CHANNELS,
    metavar="R,G,B",
    help="Mean of the network input, 0 to 1. [default: of the weights]",
)
@option(
    "--std",
    type=CHANNELS,
    metavar="R,G,B",
    help="Standard deviation of the network input. [default: of the weights]",
)
@options.size(f"{DEFAULT_SIZE}; {DEFAULT_BOX_SIZE} with --boxes")
@setting(
    InputSpec,
    "max_pixels",
    "Scale larger network inputs down to this many pixels.",
    type=click.IntRange(1),
)
@setting(
    InputSpec,
    "round_to",
    "Round both sides of the network input to multiples of K, so that images share input shapes.",
    type=click.IntRange(1, MAX_ROUND_TO),
    metavar="K",
)
@options.exif
@setting(
    InputSpec,
    "decode",
    "Decoding of JPEGs: fast reads large ones at 1/2, 1/4 or 1/8 size, which changes descriptors by 2 to 15 %.",
)
@flag("--flip", "Average the descriptors of the image and its mirror image.")
@options.levels(DEFAULT_LEVELS)
@options.pool
@option(
    "--normalize",
    metavar="METHOD",
    default=DescriptorSpec.normalize,
    help=f"Scaling of each layer: {', '.join(NORMALIZATIONS)} or meannorm:NORM.",
)
@path("--normalize-from", "FILE", "Scale as in this feature file, made with meannorm.")
@box_options
@options.dtype("Data type of the stored features.")
@options.precision
@options.device
@options.batch_size
@options.workers
@flag("--compile", "Compile the network first; takes minutes and a C++ compiler, for long runs.")
@setting(
    RunOptions,
    "max_decode_pixels",
    "Refuse images with more pixels, as decompression bombs; raise it for huge TIFFs.",
    type=click.IntRange(1),
)
@flag("--allow-nonfinite", "Keep descriptors with NaN or infinities, whose images fail otherwise.")
@flag("--fail-fast", "Stop at the first image that fails; the next run begins with it.")
@flag("--overwrite", "Start over and replace an existing output.")
@flag("--retry-failed", "Retry the failed images of the output.")
@flag("--update", "Add new inputs and rerun changed images.")
@flag("--update-changed", "Rerun images whose files changed since they were extracted.")
@flag("--add-new", "Add inputs that the output lacks.")
@shard_options
@setting(
    Request,
    "headers",
    "Reading of image headers: first (all), window (some thousand at a time) or auto (first up to 50,000 files).",
    metavar="WHEN",
)
@path(
    "--scratch",
    "FOLDER",
    "Folder for downloaded images and incomplete remote outputs. [default: system temporary folder; user cache]",
)
@ray_options
@flag("--dry-run", "Print the plan and exit.")
@options.json
@options.verbosity
@click.pass_obj
def extract(stop: Stop, /, **values: Any) -> None:
    """Write descriptors of images, or of boxes in them, to an HDF5 file.

    INPUT is a folder, an image, an archive (.tar, .zip), a table of images (.csv, .tsv, .jsonl, .parquet), a URL
    (s3://..., https://...), @FILE (a list of inputs) or - (a list on standard input). The same command continues an
    interrupted run.
    """
    if merge := values.pop("merge"):
        say("note: --merge is now --copy; the former name will be removed in the next release")
        values["copy"] |= merge == "copy"
    try:
        result = _extract(stop, **values)
    except KeyboardInterrupt:
        say("Interrupted. Run the same command again to continue.")
        leave(EXIT_INTERRUPTED)
    if not values["dry_run"] and (result.pending or result.failed):
        leave(EXIT_INTERRUPTED if result.pending else EXIT_SOME_FAILED)


def _extract(stop: Stop, *, quiet: bool, verbose: bool, as_json: bool, **values: Any) -> "ExtractResult":
    """Calls the library, with bars and the plan on standard error; prints the result."""
    keep_freed_memory()
    dry_run = values["dry_run"]
    paths = {"output": values["output"], "boxes": values["boxes"]}
    with contextlib.ExitStack() as stack:
        preparing = stack.enter_context(Bar("preparing", 0, unit="image", shown=not quiet))
        bars = []

        def on_plan(plan: "PlanSummary", config: "ExtractConfig") -> None:
            preparing.close()
            if not quiet and not dry_run:
                settings = dataclasses.asdict(config) if verbose else None
                hints = take_new_hints(plan.hints)
                width = terminal_columns(sys.stderr)
                say(plan_text(plan, **paths, hints=hints, settings=settings, columns=width))
            if not dry_run:
                bars.append(stack.enter_context(Bar("extracting", plan.to_do, unit="image", shown=not quiet)))

        def on_progress(progress: "Progress") -> None:
            stop.begin_batches()
            note = f"{progress.n_failed} failed" if progress.n_failed else ""
            bars[0].move_to(progress.n_done + progress.n_failed, note=note)

        result = sppfeat.extract(
            **values,
            on_probe=lambda n, total: preparing.move_to(n, total, label="reading headers"),
            on_download=stack.enter_context(download_bar()),
            on_plan=on_plan,
            on_progress=on_progress,
            should_stop=stop.is_wanted,
            verbose=verbose,
        )
    counts = dataclasses.asdict(result)
    plan = counts.pop("plan")
    if dry_run:
        text = plan_text(result.plan, **paths, columns=terminal_columns(sys.stdout))
        print_json_or_text({"plan": plan}, text, as_json=as_json)
        return result
    if not quiet:
        say(result_text(result, output=values["output"], verbose=verbose))
    if as_json:
        print_json({"plan": plan, "result": counts})
    return result
