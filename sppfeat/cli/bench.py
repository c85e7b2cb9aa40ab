"""``sppfeat bench``: commands that measure speed and memory."""

from collections.abc import Callable
from typing import Any

import click

from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.bench_texts import extract_text, pooling_text, regions_text
from sppfeat.cli.options import (
    SIZE_HELP,
    backbone_options,
    batch_size_option,
    device_option,
    json_option,
    levels_option,
    option,
    pool_option,
    precision_option,
    quiet_option,
    workers_option,
)
from sppfeat.cli.output import print_json_or_text
from sppfeat.cli.values import SIZE, NumberRange, Parsed, complete_files
from sppfeat.config.machine import keep_freed_memory
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_LEVELS, DEFAULT_SIZE

__all__ = ["bench"]

# The pyramid of the paper's detector, TPAMI 2015, section 4.1.
_POOLING_LEVELS = (6, 3, 2, 1)
_OUTPUT = ("quick", "quiet", "as_json")  # options that are no setting of a measurement


def _positive_numbers(text: str, separator: str = ",") -> tuple[int, ...]:
    parts = text.split(separator)
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{text!r} has a part that is no whole number above 0")
    return tuple(map(int, parts))


def _height_and_width(text: str) -> tuple[int, int]:
    height, width = _positive_numbers(text, "x")
    return height, width


_COUNTS = Parsed("n,...", _positive_numbers, refusal="{!r}; allowed: whole numbers above 0 such as 1,10,100")
_MAP_SIZE = Parsed("hxw", _height_and_width, refusal="{!r}; allowed: height and width in cells such as 38x50")


def _amount_option(names: str, full: str, quick: str, text: str, **settings: Any) -> Callable[[Any], Any]:
    """Declares an option with two defaults, as texts: one to measure with, one to try out with ``--quick``."""

    def choose(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        default = quick if context.params["quick"] else full
        return parameter.type_cast_value(context, default) if value is None else value

    settings["help"] = f"{text} [default: {full}; {quick} with --quick]"
    return option(*names.split(), callback=choose, **settings)


def _size_option(full: int, quick: int) -> Callable[[Any], Any]:
    return _amount_option("--size", str(full), str(quick), SIZE_HELP, type=SIZE, metavar="PIXELS|native")


def _repetitions_option(full: int) -> Callable[[Any], Any]:
    text = "Measurements of each; their median is reported."
    return _amount_option("--repetitions", str(full), "2", text, type=click.IntRange(1))


_quick_option = option(
    "--quick",
    is_flag=True,
    is_eager=True,  # other defaults depend on it
    help="Less of everything: to see that it works, not how fast it is.",
)
_draw_seed_option = option("--draw-seed", type=int, default=0, help="Seed of boxes and synthetic images.")


@click.group(short_help="Measure on this machine: boxes, pooling, or a run stage by stage.")
def bench() -> None:
    """Measure on this machine, with your network, your images, your device and precision.

    Contenders take turns (A B C A B C) after one unmeasured pass each; medians are reported, with --json also the
    fastest and the slowest. Ctrl-C leaves no files behind.
    """
    keep_freed_memory()


@bench.command(short_help="Descriptors of many boxes: one run of the image beside a run per box.")
@click.argument("image", required=False, shell_complete=complete_files)
@_amount_option("--boxes-count n_boxes", "2000", "20", "The most boxes.", type=click.IntRange(1))
@_amount_option(
    "--crops-count n_crops",
    "200",
    "5",
    "The most boxes that are run one by one; time for more is scaled from these, and marked.",
    type=click.IntRange(1),
)
@_draw_seed_option
@backbone_options
@_size_option(DEFAULT_BOX_SIZE, DEFAULT_SIZE)
@levels_option(DEFAULT_LEVELS)
@pool_option
@precision_option
@device_option
@_repetitions_option(3)
@_quick_option
@json_option
@quiet_option
def regions(image: str | None, **options: Any) -> None:
    """Measure descriptors of many boxes: one run of the image beside a run per box, and from how many on it pays.

    From the decoded pixels of IMAGE (default: a synthetic photograph of 500 x 375 pixels) to descriptors in memory,
    for growing numbers of boxes: the image resized and run once, boxes projected and pooled (SPP-net), beside each
    box cropped, warped to 224 x 224 pixels and run through the same network in batches, and pooled (R-CNN). The
    boxes' sides are log-uniform.
    """
    from sppfeat.bench.regions import bench_regions

    with _measuring(options) as bar, download_bar() as on_download:
        result = bench_regions(
            image,
            **_settings(options, layer=options.pop("layers")),
            on_progress=bar.move_to,
            on_download=on_download,
        )
    _print(result, regions_text, options)


@bench.command(short_help="Our pooling of boxes and maps beside torchvision's and torch's.")
@_amount_option(
    "--boxes-counts counts",
    "1,10,100,300,2000,20000",
    "1,10,50",
    "Numbers of boxes.",
    type=_COUNTS,
    metavar="N,N,...",
)
@_amount_option(
    "--map map_hw",
    "38x50",  # conv5 of an image of 600 x 800 pixels
    "10x13",
    "Height and width of the feature map, in cells.",
    type=_MAP_SIZE,
    metavar="HxW",
)
@_amount_option("--channels n_channels", "512", "32", "Of the feature map.", type=click.IntRange(1))
@levels_option(_POOLING_LEVELS)
@pool_option
@option(
    "--budget",
    "budget_seconds",
    type=NumberRange(min=0, min_open=True),
    default=10.0,
    metavar="SECONDS",
    help="What takes longer for a number of boxes is stopped, and has no result there; nothing is repeated for longer.",
)
@_draw_seed_option
@device_option
@_repetitions_option(5)
@_quick_option
@json_option
@quiet_option
def pooling(**options: Any) -> None:
    """Measure our pooling of boxes beside torchvision's, and of whole maps beside torch's.

    Boxes of one float32 feature map: pool_regions beside torchvision's roi_pool and roi_align and a loop over
    torch's adaptive pooling, and what it takes to write the result at all. Whole maps: spatial_pyramid_pool beside
    adaptive pooling, level by level.
    """
    from sppfeat.bench.pooling import bench_pooling

    with _measuring(options) as bar:
        levels = options["levels"] or _POOLING_LEVELS
        result = bench_pooling(**_settings(options, levels=levels), on_progress=bar.move_to)
    _print(result, pooling_text, options)


@bench.command(short_help="A run of whole images: each stage, all of it, and what bounds it.")
@click.argument("inputs", nargs=-1, metavar="[INPUT...]", shell_complete=complete_files)
@_amount_option(
    "--images n_images", "256", "8", "The most images, evenly from all inputs.", type=click.IntRange(1)
)
@_draw_seed_option
@backbone_options
@_size_option(DEFAULT_SIZE, DEFAULT_SIZE // 2)
@levels_option(DEFAULT_LEVELS)
@pool_option
@precision_option
@device_option
@batch_size_option
@workers_option
@_repetitions_option(3)
@_quick_option
@json_option
@quiet_option
def extract(inputs: tuple[str, ...], **options: Any) -> None:
    """Measure a run of whole images: each stage, all of it, and what bounds it.

    INPUT is what it is for 'sppfeat extract' (default: synthetic photographs). Each stage is measured by itself in
    this process: read, decode, resize, transfer to the device, backbone, pool, write. Then the whole run, with
    its own workers, into a temporary file; the bare network on the same batches, decoded already; and the loop that
    everyone writes: Pillow, one image at a time, float32, adaptive pooling.
    """
    from sppfeat.bench.runs import bench_extract

    preparing = Bar("preparing images", 0, unit="img", shown=not options["quiet"])
    with preparing, download_bar() as on_download, _measuring(options) as bar:
        result = bench_extract(
            inputs,
            **_settings(options),
            on_image=preparing.move_to,
            on_progress=bar.move_to,
            on_download=on_download,
        )
    _print(result, extract_text, options)


def _measuring(options: dict[str, Any]) -> Bar:
    return Bar("measuring", 0, unit="pass", shown=not options["quiet"])


def _settings(options: dict[str, Any], **others: Any) -> dict[str, Any]:
    """The options that are settings of a measurement, with others in their place."""
    return {name: value for name, value in options.items() if name not in _OUTPUT} | others


def _print(found: dict[str, Any], text: Callable[[dict[str, Any]], str], options: dict[str, Any]) -> None:
    print_json_or_text(found, lambda: text(found), as_json=options["as_json"])
