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
from sppfeat.cli.groups import EXIT_INTERRUPTED, EXIT_SOME_FAILED, Stop, leave, stop_on_signals
from sppfeat.cli.options import complete_files, flag, option, path, setting
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


@command(short_help="Write the descriptors of images, or of boxes in them, to an HDF5 file.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=complete_files)
@options.output("The HDF5 file to write or continue.")
@option(
    "--labels",
    type=click.Choice(["auto", "folder", "parent", "none"]),
    default="auto",
    help="Class labels. auto: the first-level folders, or those below train, val and test, if all images lie in two or "
    "more; folder: the first-level folders in any case; parent: the folder of each image; none: no labels.",
)
@options.encoding("text tables, lists and box files")
@path_options
@options.backbone
@option("--head", help="Run the network's fully connected layers on each pooled region (vgg*, alexnet).")
@option("--mean", type=CHANNELS, help="Mean of the network input, 0..1. [default: of the weights]")
@option("--std", type=CHANNELS, help="Standard deviation of the network input. [default: of the weights]")
@options.size(f"{DEFAULT_SIZE}; {DEFAULT_BOX_SIZE} with --boxes")
@setting(
    InputSpec,
    "max_pixels",
    "Larger network inputs are scaled down to this many pixels.",
    type=click.IntRange(1),
)
@setting(
    InputSpec,
    "round_to",
    "Round both sides of the network input to multiples of K pixels, so that images of many sizes share few "
    "input shapes; 1: not.",
    type=click.IntRange(1, MAX_ROUND_TO),
    metavar="K",
)
@options.exif
@setting(
    InputSpec,
    "decode",
    "fast: JPEGs at least twice as large as their network input are decoded at 1/2, 1/4 or 1/8 of their size, "
    "which moves their descriptors by 2 to 15 %.",
)
@flag("--flip", "Average with the descriptor of the mirror image.")
@options.levels(DEFAULT_LEVELS, note="; with --head what it takes")
@options.pool
@option(
    "--normalize",
    metavar=f"{'|'.join(NORMALIZATIONS)}|meannorm:NORM",
    default=DescriptorSpec.normalize,
    help="Scaling, per layer; power is signed square root, then l2; meannorm one factor for all rows.",
)
@path("--normalize-from", "FILE", "Scale as a feature file made with meannorm was scaled.")
@box_options
@options.dtype("Of the stored descriptors.")
@options.precision
@options.device
@options.batch_size
@options.workers
@flag("--compile", "Compile the network first (minutes; needs a C++ compiler): for long runs.")
@setting(
    RunOptions,
    "max_decode_pixels",
    "Larger images fail, undecoded; raise it for huge TIFFs.",
    type=click.IntRange(1),
)
@flag("--allow-nonfinite", "Keep descriptors with NaN or infinities; otherwise their image fails.")
@flag("--fail-fast", "Stop at the first image that fails; the same command again begins with it.")
@flag("--overwrite", "Start anew; an existing output is replaced once the new one is complete.")
@flag("--retry-failed", "Try failed images of an existing output again.")
@flag("--update", "Bring an existing output up to date: add new inputs, and run changed images again.")
@flag("--update-changed", "Run images again whose files have changed since they were extracted.")
@flag("--add-new", "Add inputs that an existing output does not have.")
@shard_options
@setting(
    Request,
    "headers",
    "Read all image headers before the first image is run, or those of some thousand images at a time; auto: "
    "first for up to 50,000 files in folders.",
)
@path(
    "--scratch",
    "FOLDER",
    "Where images that have to be fetched lie while they are needed, and remote outputs until they are complete. "
    "[default: the system's folder for temporary files; the user's cache folder]",
)
@ray_options
@flag("--dry-run", "Print the plan and stop.")
@options.json
@options.verbosity
def extract(**values: Any) -> None:
    """Write the descriptors of images, or of boxes in them, to an HDF5 file.

    INPUT is a folder (searched recursively), an image file, an archive (.tar, .zip; read in place), a table of images
    (.csv, .tsv, .jsonl, .parquet; a Hugging Face dataset, too), a URL (s3://..., https://...), @FILE (a list of these,
    one per line or separated by NUL), or - (such a list on standard input). A folder without images stands for the
    archives and Parquet files in it. Rows come in the order of the inputs, inside a folder in natural order (img2
    before img10).

    With --boxes there is one row per box instead of one per image, pooled from one run of the image: image by
    image, in the order of the box file. A box without area in its image keeps its row, as NaN.

    If the output exists and was made with the same settings, it is continued: images that are done stay.

    \b
    Every option can be set in the environment: SPPFEAT_EXTRACT_LEVELS=1,2 is --levels 1,2.
    Exit codes: 0 done; 1 error; 2 wrong usage; 3 finished, but some images failed; 130 interrupted.
    """
    with stop_on_signals() as stop:
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
    with contextlib.ExitStack() as before, contextlib.ExitStack() as during:
        preparing = before.enter_context(Bar("preparing", 0, unit="image", shown=not quiet))
        bars = []

        def on_plan(plan: "PlanSummary", config: "ExtractConfig") -> None:
            before.close()
            if not quiet and not dry_run:
                settings = dataclasses.asdict(config) if verbose else None
                hints = take_new_hints(plan.hints)
                width = terminal_columns(sys.stderr)
                say(plan_text(plan, **paths, hints=hints, settings=settings, columns=width))
            if not dry_run:
                bars.append(
                    during.enter_context(Bar("extracting", plan.to_do, unit="image", shown=not quiet))
                )

        def on_progress(progress: "Progress") -> None:
            stop.begin_batches()
            bars[0].show(progress)

        result = sppfeat.extract(
            **values,
            on_probe=lambda n, total: preparing.move_to(n, total, label="reading headers"),
            on_download=before.enter_context(download_bar()),
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
