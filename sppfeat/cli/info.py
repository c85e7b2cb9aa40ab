"""``sppfeat info``: the contents of a feature file, as text or JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import sppfeat
from sppfeat.analysis.wording import reduction_text
from sppfeat.cli import options
from sppfeat.cli.command import command
from sppfeat.cli.output import box_counts_text, first_of, labeled_lines, print_json_or_text, scales_text
from sppfeat.config.wording import counted, escaped, first_few, human_bytes

if TYPE_CHECKING:
    from sppfeat.analysis.file_info import FileInfo, SourceInfo

__all__ = ["info"]

_SHOWN = 10


@command()
@options.feature_file()
@options.json
def info(file: Path, as_json: bool) -> None:
    """Summarize a feature file: images, labels, settings, failures.

    The file may be incomplete: another process may be writing it.
    """
    found = sppfeat.info(file)
    print_json_or_text(found, _text(found), as_json=as_json)


def _text(found: "FileInfo") -> str:
    images = found["images"]
    state = "complete" if found["complete"] else "incomplete: the same extract command continues it"
    unknown = images["total"] - images["done"] - images["failed"] - images["pending"]
    lines = [
        ("file", f"{found['path']}, {human_bytes(found['bytes'])}, {state}"),
        (
            "made",
            f"{found['created']} by sppfeat {found['sppfeat_version']}, schema {found['schema_version']}",
        ),
        ("features", f"{counted(found['rows'], 'row')} x {found['dimension']} {found['dtype']}"),
        (
            "images",
            f"{images['total']}: {images['done']} done, {images['failed']} failed, {images['pending']} pending",
        ),
        ("root", found["root"]),
    ]
    if unknown:
        lines.append(("images", f"{unknown} with unknown status: 'sppfeat verify' lists them"))
    lines += _shard_lines(found["shard"], found["sources"])
    boxes = found["boxes"]
    if boxes:
        lines.append(("boxes", f"{boxes['source']}: {box_counts_text(boxes)}"))
        if boxes["images_without_boxes"]:
            lines.append(("boxes", f"{counted(boxes['images_without_boxes'], 'image')} without boxes"))
        if len(boxes["scales"]) > 1:
            lines.append(("scales", scales_text(boxes["scales"])))
        lines += _class_lines(boxes["classes"], " of boxes")
    lines += _class_lines(found["classes"])
    lines += [("columns", _column_text(block)) for block in found["columns"]]
    if found["reduction"]:
        reduction = found["reduction"]
        lines.append(("reduced", reduction_text(reduction)))
        lines += [("from", _column_text(block)) for block in reduction["source"]["columns"]]
        lines.append(("settings", "before the reduction:"))
    lines += [("setting", f"{name} = {value}") for name, value in found["config"].items()]
    failures = [f"{failure['path']!r}: {failure['error']}" for failure in found["failures"]]
    failures = first_of(failures, _SHOWN, more="... and {} more: --json lists them")
    lines += [("failed", text) for text in failures]
    # Texts of the file may hold line breaks or control sequences of the terminal.
    return labeled_lines(((name, escaped(text)) for name, text in lines), width=11)


def _shard_lines(shard: dict[str, int] | None, sources: "list[SourceInfo] | None") -> list[tuple[str, str]]:
    """Lines about the file's shard of an extraction, and about the files that hold its rows."""
    lines = []
    if shard:
        images = f"images {shard['first_image']} to {shard['stop_image']} of {shard['n_images']}"
        rows = f"rows {shard['first_row']} to {shard['stop_row']} of {shard['n_rows']}"
        lines.append(("shard", f"{shard['index']}/{shard['count']}: {images}, {rows}"))
    if sources is not None:
        shown = first_few((source["path"] for source in sources), _SHOWN)
        nbytes = human_bytes(sum(source["bytes"] for source in sources))
        lines.append(("virtual", f"rows in {counted(len(sources), 'other file')}, {nbytes}: {shown}"))
    return lines


def _class_lines(classes: dict[str, int], kind: str = "") -> list[tuple[str, str]]:
    if not classes:
        return []
    shown = first_few((f"{name} {n}" for name, n in classes.items()), _SHOWN)
    return [("classes", f"{len(classes)}{kind}: {shown}")]


def _column_text(block: dict[str, Any]) -> str:
    channels = counted(block["channels"], "channel")
    return f"{block['start']}..{block['stop']}: {block['layer']}, level {block['level']}, {channels}"
