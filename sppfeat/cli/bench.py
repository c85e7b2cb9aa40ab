"""``sppfeat bench``: measures speed; each command prints a table with notes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli import options
from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.command import Group
from sppfeat.cli.option_types import ABOVE_ZERO, ANY_PATH, SIZE, Parsed
from sppfeat.cli.options import SIZE_HELP, flag, option, together
from sppfeat.cli.output import joined_numbers, print_json_or_text, table
from sppfeat.config.machine import keep_freed_memory
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_LEVELS, DEFAULT_SIZE
from sppfeat.config.wording import counted

if TYPE_CHECKING:
    from sppfeat.bench.pooling import PoolingBench
    from sppfeat.bench.regions import RegionsBench
    from sppfeat.bench.runs import ExtractBench, Rate
    from sppfeat.bench.timing import Machine, Timing

__all__ = ["bench"]

# The pyramid of the paper's detector, TPAMI 2015, section 4.1.
_POOLING_LEVELS = (6, 3, 2, 1)
_POOLING = {"max": "adaptive_max_pool2d", "avg": "adaptive_avg_pool2d"}
_MISSING = "-"


def _counts(text: str, separator: str = ",") -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(separator)))
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def _height_and_width(text: str) -> tuple[int, int]:
    height, width = _counts(text, "x")
    return height, width


_COUNTS = Parsed("n,...", _counts, refusal="{!r}; allowed: whole numbers above 0 such as 1,10,100")
_MAP_SIZE = Parsed("hxw", _height_and_width, refusal="{!r}; allowed: height and width in cells such as 38x50")


def _amount(names: str, full: str, quick: str, text: str, **settings: Any) -> Callable[[Any], Any]:
    """Declares an option with two defaults, as texts: the usual one, and one for ``--quick``."""
    settings.setdefault("type", click.IntRange(1))

    def choose(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        default = quick if context.params["quick"] else full
        return parameter.type_cast_value(context, default) if value is None else value

    settings["help"] = f"{text} [default: {full}; {quick} with --quick]"
    return option(*names.split(), callback=choose, **settings)


def _size_option(full: int, quick: int) -> Callable[[Any], Any]:
    return _amount("--size", str(full), str(quick), SIZE_HELP, type=SIZE, metavar="PIXELS|native")


def _common_options(*, repetitions: int) -> Callable[[Any], Any]:
    """Declares the last options of each command, with its default of ``--repeats``."""
    text = "Number of measurements; the median is reported."
    return together(
        _amount("--repeats repetitions", str(repetitions), "2", text, former="--repetitions"),
        # Other defaults depend on --quick.
        flag("--quick", "Measure little, only to see that it works.", is_eager=True),
        options.json,
        options.quiet,
    )


_draw_seed_option = option(
    "--data-seed",
    "draw_seed",
    type=int,
    default=0,
    help="Random seed of boxes and synthetic images.",
    former="--draw-seed",
)


@click.group(cls=Group)
def bench() -> None:
    """Measure speed on this machine: boxes, pooling, or a whole run.

    Contenders take turns after a warm-up pass; medians are reported, with --json also the fastest and slowest times.
    """
    keep_freed_memory()


@bench.command()
@click.argument("image", required=False, type=ANY_PATH)
@_amount("--max-boxes n_boxes", "2000", "20", "Largest number of boxes.", former="--boxes-count")
@_amount(
    "--max-crops n_crops",
    "200",
    "5",
    "Largest number of boxes run one by one; times of more boxes are extrapolated.",
    former="--crops-count",
)
@_draw_seed_option
@options.backbone
@_size_option(DEFAULT_BOX_SIZE, DEFAULT_SIZE)
@options.levels(DEFAULT_LEVELS)
@options.pool
@options.precision
@options.device
@_common_options(repetitions=3)
def regions(image: str | None, **values: Any) -> None:
    """Compare one forward pass per image (SPP-net) with one per box (R-CNN).

    Measures from the decoded pixels of IMAGE (default: a synthetic photograph of 500 x 375 pixels) to descriptors in
    memory, for growing numbers of boxes with log-uniform sides. SPP-net runs the resized image once and pools the
    projected boxes. R-CNN warps each box to 224 x 224 pixels and runs the same network on batches of them.
    """
    from sppfeat.bench.regions import bench_regions

    values["layer"] = values.pop("layers")
    with download_bar() as on_download:
        _measure(bench_regions, _regions_text, image, on_download=on_download, **values)


@bench.command()
@_amount(
    "--box-counts counts",
    "1,10,100,300,2000,20000",
    "1,10,50",
    "Numbers of boxes to measure.",
    type=_COUNTS,
    metavar="N,N,...",
    former="--boxes-counts",
)
@_amount(
    "--map-size map_hw",
    "38x50",  # conv5 of an image of 600 x 800 pixels
    "10x13",
    "Height and width of the feature map, in cells.",
    type=_MAP_SIZE,
    metavar="HxW",
    former="--map",
)
@_amount("--channels n_channels", "512", "32", "Channels of the feature map.")
@options.levels(_POOLING_LEVELS)
@options.pool
@option(
    "--time-limit",
    "budget_seconds",
    type=ABOVE_ZERO,
    default=10.0,
    metavar="SECONDS",
    former="--budget",
    help="Time limit of each measurement; slower contenders are stopped.",
)
@_draw_seed_option
@options.device
@_common_options(repetitions=5)
def pooling(**values: Any) -> None:
    """Compare the pooling of boxes and maps with torchvision and torch.

    Boxes of a float32 feature map: pool_regions, torchvision's roi_pool and roi_align, a loop over torch's adaptive
    pooling, and the bare writing of the result. Whole maps: spatial_pyramid_pool and adaptive pooling.
    """
    from sppfeat.bench.pooling import bench_pooling

    values["levels"] = values["levels"] or _POOLING_LEVELS
    _measure(bench_pooling, _pooling_text, **values)


@bench.command()
@click.argument("inputs", nargs=-1, metavar="[INPUT...]", type=ANY_PATH)
@_amount(
    "--max-images n_images",
    "256",
    "8",
    "Largest number of images, taken evenly from all inputs.",
    former="--images",
)
@_draw_seed_option
@options.backbone
@_size_option(DEFAULT_SIZE, DEFAULT_SIZE // 2)
@options.levels(DEFAULT_LEVELS)
@options.pool
@options.precision
@options.device
@options.batch_size
@options.workers
@_common_options(repetitions=3)
def extract(inputs: tuple[str, ...], **values: Any) -> None:
    """Measure a run of whole images stage by stage, and its bottleneck.

    INPUT is as for 'sppfeat extract' (default: synthetic photographs). Measures each stage alone in this process: read,
    decode, resize, transfer, backbone, pool, write. Then come the whole run with its workers, the bare network on
    decoded batches, and a simple loop over images with Pillow and adaptive pooling.
    """
    from sppfeat.bench.runs import bench_extract

    preparing = Bar("preparing images", 0, unit="image", shown=not values["quiet"])
    with preparing, download_bar() as on_download:
        _measure(
            bench_extract,
            _extract_text,
            inputs,
            on_image=preparing.move_to,
            on_download=on_download,
            **values,
        )


def _measure(
    measurement: Callable[..., Any],
    text: Callable[[Any], str],
    *inputs: Any,
    quick: bool,  # noqa: ARG001 - chooses other defaults
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Calls a measurement with a progress bar, and prints its result."""
    with Bar("measuring", 0, unit="pass", shown=not quiet) as bar:
        found = measurement(*inputs, on_progress=bar.move_to, **settings)
    print_json_or_text(found, text(found), as_json=as_json)


def _regions_text(found: "RegionsBench") -> str:
    rows = [
        [
            str(rung["boxes"]),
            _seconds(rung["spp"]["seconds"]),
            _seconds(rung["rcnn"]["seconds"]) + ("*" if rung["extrapolated_from"] else " "),
            f"{rung['speedup']:.1f}",
        ]
        for rung in found["ladder"]
    ]
    image = "synthetic photograph" if found["image"] is None else found["image"]
    lines = [
        *_heading(found),
        f"image:      {image}, {_hw(found['image_hw'])} pixels, run at {_hw(found['input_hw'])} (height x width)",
        f"crops:      warped to {_hw(found['crop_hw'])}, {found['crop_batch']} at once",
        "",
        table(["boxes", "one run, s", "a run per box, s", "speed-up"], rows, right={0, 1, 2, 3}),
        "",
    ]
    if largest := found["ladder"][-1]["extrapolated_from"]:
        lines.append(f"* extrapolated from {counted(largest, 'box')}")
    return "\n".join([*lines, _crossover_text(found), _medians(found)])


def _pooling_text(found: "PoolingBench") -> str:
    def timings(cells: Sequence[Any], unit: str, *more: list[str]) -> str:
        names = list(cells[0]["contenders"])
        rows = [
            [str(cell[unit]), *(_milliseconds(cell["contenders"][name]) for name in names)] for cell in cells
        ]
        return table([unit, *names], [*rows, *more], right=set(range(len(names) + 1)))

    shares = found["same_values"]
    same = [
        f"{100 * shares[name]:.2f} %" if name in shares else _MISSING
        for name in found["regions"][0]["contenders"]
    ]
    return "\n".join(
        [
            _machine_text(found["machine"]),
            f"map:        {_hw(found['map_hw'])} cells (height x width), {counted(found['channels'], 'channel')}, "
            "float32",
            f"pyramid:    levels {joined_numbers(found['levels'])}, {found['mode']}: "
            f"{counted(found['dimension'], 'value')} per box or map",
            "",
            "Boxes, ms:",
            timings(found["regions"], "boxes", ["same", *same]),
            "",
            "Whole maps, ms:",
            timings(found["whole"], "maps"),
            "",
            *_pooling_notes(found),
            _medians(found, ", or until the time limit"),
        ]
    )


def _extract_text(found: "ExtractBench") -> str:
    def row(name: str, rate: "Rate") -> list[str]:
        return [name, f"{rate['ms_per_image']:.2f}", f"{rate['images_per_second']:.1f}"]

    rows = [row(stage, rate) for stage, rate in found["stages"].items()]
    rows += [row("extract", found["extract"]), row("forward", found["forward"]), row("loop", found["loop"])]
    kind = "synthetic photograph" if found["synthetic"] else "image"
    images = (
        f"{counted(found['images'], kind)} in {counted(found['input_shapes'], 'input shape')}, "
        f"{counted(found['batches'], 'batch', 'batches')}"
    )
    if found["unreadable"]:
        images += f"; {found['unreadable']} skipped (cannot be read or run)"
    if found["failed"]:
        images += f"; {found['failed']} failed in the run ('sppfeat extract' gives the reasons)"
    return "\n".join(
        [
            *_heading(found),
            f"images:     {images}",
            "",
            table(["", "ms per image", "images/s"], rows, right={1, 2}),
            "",
            f"bound:      {found['bound']}",
            f"extract:    the whole run with {counted(found['workers'], 'decoding process')}, after "
            f"{found['prepare']['seconds']:.2f} s for listing, network and headers",
            f"forward:    the network alone on the same decoded batches; the run takes "
            f"{found['extract_to_forward']:.2f} times as long",
            f"loop:       Pillow, one image at a time, float32, adaptive pooling; the run is "
            f"{found['speedup_over_loop']:.2f} times as fast",
            _medians(found),
        ]
    )


def _heading(found: "RegionsBench | ExtractBench") -> list[str]:
    return [
        _machine_text(found["machine"]),
        f"backbone:   {found['backbone']}, weights {found['weights']}, layer {' + '.join(found['layers'])}",
        f"descriptor: levels {joined_numbers(found['levels'])}, {found['pool']}: "
        f"{counted(found['dimension'], 'value')}",
    ]


def _machine_text(machine: "Machine") -> str:
    return (
        f"machine:    {machine['processor']}, {counted(machine['cores'], 'core')}, {machine['system']}\n"
        f"device:     {machine['device']}, {machine['precision']}, {counted(machine['threads'], 'thread')}, "
        f"torch {machine['torch']}, sppfeat {machine['sppfeat']}"
    )


def _crossover_text(found: "RegionsBench") -> str:
    crossover = found["crossover"]
    if crossover is None:
        return f"crossover:  none; one run per box is faster even with {counted(found['ladder'][-1]['boxes'], 'box')}"
    text = f"crossover:  one run of the image wins from {counted(crossover['boxes'], 'box')} on"
    if crossover["above"] is not None:
        text += f", not with {crossover['above']}"
    return f"{text} (extrapolated)" if crossover["is_extrapolated"] else text


def _pooling_notes(found: "PoolingBench") -> list[str]:
    of_regions = found["regions"]
    notes = [
        f"same:       share of the values that equal those of adaptive_loop, one {_POOLING[found['mode']]} per level "
        "and box;",
        "            roi_align interpolates, so its values differ by definition",
    ]
    if found["mode"] != "max":
        notes.append("            roi_pool takes maxima only and was skipped")
    notes.append(
        "layout:     our functions get channels-last maps, as networks return them; the others (N, C, H, W)"
    )
    notes.append("write_once: writes as many values without pooling (lower bound)")
    in_pieces = [cell for cell in of_regions if cell["calls"] > 1]
    if in_pieces:
        pieces = ", ".join(
            f"{counted(cell['boxes'], 'box')} in {counted(cell['calls'], 'call')}" for cell in in_pieces
        )
        notes.append(f"memory:     {pieces}, for every contender")
    cells = [timing for cell in (*of_regions, *found["whole"]) for timing in cell["contenders"].values()]
    if None in cells:
        notes.append(
            f"{_MISSING}:          stopped: took longer than the time limit of {found['budget_seconds']:g} s"
        )
    return notes


def _medians(found: "RegionsBench | PoolingBench | ExtractBench", but: str = "") -> str:
    times = "once" if found["repetitions"] == 1 else f"{found['repetitions']} times"
    return f"measured:   {times} in turn{but}; medians are shown (--json has the spread)"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"


def _milliseconds(timing: "Timing | None") -> str:
    return _MISSING if timing is None else f"{1000 * timing['seconds']:.2f}"


def _hw(hw: tuple[int, int]) -> str:
    return " x ".join(map(str, hw))
