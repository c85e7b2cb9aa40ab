"""Texts of ``sppfeat bench``: a table for each measurement, with notes on reading it."""

from typing import Any

from sppfeat.cli.output import joined_numbers, table
from sppfeat.config.wording import counted

__all__ = ["extract_text", "pooling_text", "regions_text"]

_POOLING = {"max": "adaptive_max_pool2d", "avg": "adaptive_avg_pool2d"}
_MISSING = "-"


def regions_text(found: dict[str, Any]) -> str:
    """Formats the result of ``bench regions``, as in its JSON, as text."""
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
        lines.append(f"* not measured with so many: {counted(largest, 'box')}, scaled in proportion")
    return "\n".join([*lines, _crossover_text(found), _medians(found)])


def pooling_text(found: dict[str, Any]) -> str:
    """Formats the result of ``bench pooling``, as in its JSON, as text."""

    def timings(cells: list[dict[str, Any]], unit: str, *more: list[str]) -> str:
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
            _medians(found, ", or until the budget is used up"),
        ]
    )


def extract_text(found: dict[str, Any]) -> str:
    """Formats the result of ``bench extract``, as in its JSON, as text."""

    def row(name: str, rate: dict[str, Any]) -> list[str]:
        return [name, f"{rate['ms_per_image']:.2f}", f"{rate['images_per_second']:.1f}"]

    rows = [row(stage, rate) for stage, rate in found["stages"].items()]
    rows += [row(name, found[name]) for name in ("extract", "forward", "loop")]
    kind = "synthetic photograph" if found["synthetic"] else "image"
    images = (
        f"{counted(found['images'], kind)} in {counted(found['input_shapes'], 'input shape')}, "
        f"{counted(found['batches'], 'batch', 'batches')}"
    )
    if found["unreadable"]:
        images += (
            "; " + counted(found["unreadable"], "left out: it", "left out: they") + " cannot be read or run"
        )
    if found["failed"]:
        images += f"; {found['failed']} failed in the run: 'sppfeat extract' says why"
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
            f"forward:    the bare network, same batches, decoded already; the run takes "
            f"{found['extract_to_forward']:.2f} times as long",
            f"loop:       Pillow, one image at a time, float32, adaptive pooling; the run is "
            f"{found['speedup_over_loop']:.2f} times as fast",
            _medians(found),
        ]
    )


def _heading(found: dict[str, Any]) -> list[str]:
    return [
        _machine_text(found["machine"]),
        f"backbone:   {found['backbone']}, weights {found['weights']}, layer {' + '.join(found['layers'])}",
        f"descriptor: levels {joined_numbers(found['levels'])}, {found['pool']}: "
        f"{counted(found['dimension'], 'value')}",
    ]


def _machine_text(machine: dict[str, Any]) -> str:
    return (
        f"machine:    {machine['processor']}, {counted(machine['cores'], 'core')}, {machine['system']}\n"
        f"device:     {machine['device']}, {machine['precision']}, {counted(machine['threads'], 'thread')}, "
        f"torch {machine['torch']}, sppfeat {machine['sppfeat']}"
    )


def _crossover_text(found: dict[str, Any]) -> str:
    crossover = found["crossover"]
    if crossover is None:
        return f"crossover:  none: a run per box is faster with {counted(found['ladder'][-1]['boxes'], 'box')}, too"
    text = f"crossover:  one run of the image wins from {counted(crossover['boxes'], 'box')} on"
    if crossover["above"] is not None:
        text += f", not with {crossover['above']}"
    return f"{text} (not measured with so many)" if crossover["is_extrapolated"] else text


def _pooling_notes(found: dict[str, Any]) -> list[str]:
    of_regions = found["regions"]
    notes = [
        f"same:       share of the values that equal those of adaptive_loop, one {_POOLING[found['mode']]} per level "
        "and box;",
        "            roi_align interpolates: its values are others by definition",
    ]
    if found["mode"] != "max":
        notes.append("            roi_pool takes maxima only: left out")
    notes.append(
        "layout:     ours is given channels-last maps, as the network leaves them, the others (N, C, H, W)"
    )
    notes.append("write_once: writing values of that number, pooling nothing: the floor")
    in_pieces = [cell for cell in of_regions if cell["calls"] > 1]
    if in_pieces:
        pieces = ", ".join(
            f"{counted(cell['boxes'], 'box')} in {counted(cell['calls'], 'call')}" for cell in in_pieces
        )
        notes.append(f"memory:     {pieces}, of every contender")
    cells = [timing for cell in (*of_regions, *found["whole"]) for timing in cell["contenders"].values()]
    if None in cells:
        notes.append(
            f"{_MISSING}:          stopped: took longer than the budget of {found['budget_seconds']:g} s"
        )
    return notes


def _medians(found: dict[str, Any], but: str = "") -> str:
    times = "once" if found["repetitions"] == 1 else f"{found['repetitions']} times"
    return f"measured:   {times}, in turn{but}; shown are medians, --json has the spread"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"


def _milliseconds(timing: dict[str, Any] | None) -> str:
    return _MISSING if timing is None else f"{1000 * timing['seconds']:.2f}"


def _hw(hw: tuple[int, int]) -> str:
    return " x ".join(map(str, hw))
