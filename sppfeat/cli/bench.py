"""``sppfeat bench``: commands that measure speed and memory."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sppfeat.bench.settings import (
    BOXES_COUNT,
    BUDGET_SECONDS,
    CROPS_COUNT,
    MAP_CHANNELS,
    MAP_HW,
    POOLING_COUNTS,
    POOLING_LEVELS,
    POOLING_REPETITIONS,
    REGIONS_SIZE,
    REPETITIONS,
    SAMPLE_IMAGES,
    SAMPLE_SIZE,
    Amount,
    PoolingSettings,
    RegionsSettings,
    RunsSettings,
    Subject,
)
from sppfeat.cli.bars import Bar, download_bar, prepared
from sppfeat.cli.bench_texts import extract_text, pooling_text, regions_text
from sppfeat.cli.options import (
    backbone_choice,
    backbone_options,
    batch_size_option,
    device_option,
    json_option,
    levels_option,
    option,
    pool_option,
    precision_option,
    quiet_option,
    size_option,
    workers_option,
)
from sppfeat.cli.output import joined_numbers, print_json_or_text
from sppfeat.cli.values import NumberRange, Parsed, auto_to_none, complete_files, native_to_none
from sppfeat.config.machine import keep_freed_memory
from sppfeat.config.request import DescriptorChoice
from sppfeat.config.specs import DEFAULT_LEVELS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["bench"]

_T = TypeVar("_T")


def _positive_numbers(text: str, separator: str = ",") -> tuple[int, ...]:
    parts = text.split(separator)
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{text!r} has a part that is no whole number above 0")
    return tuple(map(int, parts))


def _height_and_width(text: str) -> tuple[int, ...]:
    height, width = _positive_numbers(text, "x")
    return height, width


_COUNTS = Parsed("n,...", _positive_numbers, refusal="{!r}; allowed: whole numbers above 0 such as 1,10,100")
_MAP_SIZE = Parsed("hxw", _height_and_width, refusal="{!r}; allowed: height and width in cells such as 38x50")


def _amount_option(
    name: str, amount: Amount[_T], text: str, show: Callable[[_T], str] = str, **settings: Any
) -> Callable[[Any], Any]:
    """Declares an option whose default depends on ``--quick``."""
    default = f"{show(amount.full)}; {show(amount.quick)} with --quick"
    return option(name, help=f"{text} [default: {default}]", **settings)


def _repetitions_option(amount: Amount[int]) -> Callable[[Any], Any]:
    text = "Measurements of each; their median is reported."
    return _amount_option("--repetitions", amount, text, type=click.IntRange(1))


_quick_option = option(
    "--quick", is_flag=True, help="Less of everything: to see that it works, not how fast it is."
)
_draw_seed_option = option(
    "--draw-seed", type=int, default=RegionsSettings.seed, help="Seed of boxes and synthetic images."
)


@click.group(short_help="Measure on this machine: boxes, pooling, or a run stage by stage.")
def bench() -> None:
    """Measure on this machine, with your network, your images, your device and precision.

    Contenders take turns (A B C A B C) after one unmeasured pass each; medians are reported, with --json also the
    fastest and the slowest. Ctrl-C leaves no files behind.
    """
    keep_freed_memory()


@bench.command(short_help="Descriptors of many boxes: one run of the image beside a run per box.")
@click.argument("image", required=False, shell_complete=complete_files)
@_amount_option("--boxes-count", BOXES_COUNT, "The most boxes.", type=click.IntRange(1))
@_amount_option(
    "--crops-count",
    CROPS_COUNT,
    "The most boxes that are run one by one; time for more is scaled from these, and marked.",
    type=click.IntRange(1),
)
@_draw_seed_option
@backbone_options
@size_option(f"{REGIONS_SIZE.full}; {REGIONS_SIZE.quick} with --quick")
@levels_option(DEFAULT_LEVELS)
@pool_option
@precision_option
@device_option
@_repetitions_option(REPETITIONS)
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

    quick = options["quick"]
    settings = RegionsSettings(
        image=image,
        size=native_to_none(REGIONS_SIZE.choose(options["size"], quick=quick)),
        n_boxes=BOXES_COUNT.choose(options["boxes_count"], quick=quick),
        n_crops=CROPS_COUNT.choose(options["crops_count"], quick=quick),
        seed=options["draw_seed"],
        repetitions=REPETITIONS.choose(options["repetitions"], quick=quick),
    )
    with _measuring(options) as bar, download_bar() as on_download:
        result = bench_regions(_subject(options), settings, on_progress=bar.move_to, on_download=on_download)
    _print(result, regions_text, options)


@bench.command(short_help="Our pooling of boxes and maps beside torchvision's and torch's.")
@_amount_option(
    "--boxes-counts",
    POOLING_COUNTS,
    "Numbers of boxes.",
    joined_numbers,
    type=_COUNTS,
    metavar="N,N,...",
)
@_amount_option(
    "--map",
    MAP_HW,
    "Height and width of the feature map, in cells.",
    lambda hw: "x".join(map(str, hw)),
    type=_MAP_SIZE,
    metavar="HxW",
)
@_amount_option("--channels", MAP_CHANNELS, "Of the feature map.", type=click.IntRange(1))
@levels_option(POOLING_LEVELS)
@pool_option
@option(
    "--budget",
    type=NumberRange(min=0, min_open=True),
    default=BUDGET_SECONDS,
    metavar="SECONDS",
    help="What takes longer for a number of boxes is stopped, and has no result there; nothing is repeated for longer.",
)
@_draw_seed_option
@device_option
@_repetitions_option(POOLING_REPETITIONS)
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

    quick = options["quick"]
    settings = PoolingSettings(
        counts=POOLING_COUNTS.choose(options["boxes_counts"], quick=quick),
        map_hw=MAP_HW.choose(options["map"], quick=quick),
        n_channels=MAP_CHANNELS.choose(options["channels"], quick=quick),
        levels=options["levels"] or POOLING_LEVELS,
        mode=options["pool"],
        device=options["device"],
        budget_seconds=options["budget"],
        seed=options["draw_seed"],
        repetitions=POOLING_REPETITIONS.choose(options["repetitions"], quick=quick),
    )
    with _measuring(options) as bar:
        result = bench_pooling(settings, on_progress=bar.move_to)
    _print(result, pooling_text, options)


@bench.command(short_help="A run of whole images: each stage, all of it, and what bounds it.")
@click.argument("inputs", nargs=-1, metavar="[INPUT...]", shell_complete=complete_files)
@_amount_option("--images", SAMPLE_IMAGES, "The most images, evenly from all inputs.", type=click.IntRange(1))
@_draw_seed_option
@backbone_options
@size_option(f"{SAMPLE_SIZE.full}; {SAMPLE_SIZE.quick} with --quick")
@levels_option(DEFAULT_LEVELS)
@pool_option
@precision_option
@device_option
@batch_size_option
@workers_option
@_repetitions_option(REPETITIONS)
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
    from sppfeat.bench.runs import prepare_runs

    quick = options["quick"]
    settings = RunsSettings(
        inputs=inputs,
        n_images=SAMPLE_IMAGES.choose(options["images"], quick=quick),
        size=native_to_none(SAMPLE_SIZE.choose(options["size"], quick=quick)),
        batch_size=auto_to_none(options["batch_size"]),
        workers=auto_to_none(options["workers"]),
        seed=options["draw_seed"],
        repetitions=REPETITIONS.choose(options["repetitions"], quick=quick),
    )
    with (
        prepared(
            lambda on_image, on_download: prepare_runs(
                _subject(options), settings, on_image=on_image, on_download=on_download
            ),
            "preparing images",
            shown=not options["quiet"],
        ) as runs,
        _measuring(options) as bar,
    ):
        result = runs.measure(on_progress=bar.move_to)
    _print(result, extract_text, options)


def _measuring(options: dict[str, Any]) -> Bar:
    return Bar("measuring", 0, unit="pass", shown=not options["quiet"])


def _subject(options: dict[str, Any]) -> Subject:
    return Subject(
        backbone=backbone_choice(options),
        descriptor=DescriptorChoice(levels=options["levels"], pool=options["pool"]),
        precision=options["precision"],
        device=options["device"],
    )


def _print(
    result: "DataclassInstance", text: Callable[[dict[str, Any]], str], options: dict[str, Any]
) -> None:
    found = dataclasses.asdict(result)
    print_json_or_text(found, lambda: text(found), as_json=options["as_json"])
