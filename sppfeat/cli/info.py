"""``sppfeat info``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli.options import json_option
from sppfeat.cli.output import box_counts_text, human_bytes, print_json, print_result

if TYPE_CHECKING:
    from sppfeat.reader import FeatureFile

__all__ = ["info"]

_SHOWN = 10


@click.command(short_help="Say what is in a feature file.")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def info(file: Path, as_json: bool) -> None:
    """Say what is in a feature file: images, rows, columns, settings, failures.

    Works while another process is writing the file.
    """
    from sppfeat.reader import FeatureFile

    with FeatureFile(file) as features:
        found = _describe(features)
    if as_json:
        print_json(found)
    else:
        print_result(_text(found))


def _describe(file: "FeatureFile") -> dict[str, Any]:
    status = file.status.tolist()
    labels = file.labels
    errors = file.errors
    return {
        "path": str(file.path),
        "schema_version": file.schema_version,
        "sppfeat_version": file.attribute("sppfeat_version"),
        "created": file.attribute("created"),
        "bytes": file.path.stat().st_size,
        "rows": file.n_rows,
        "dimension": file.dimension,
        "dtype": str(file.features.dtype),
        "images": {
            "total": len(status),
            "done": status.count(1),
            "failed": status.count(2),
            "pending": status.count(0),
        },
        "complete": 0 not in status,
        "boxes": _describe_boxes(file) if file.has_boxes else None,
        "root": file.root,
        "classes": {name: int((labels == i).sum()) for i, name in enumerate(file.classes)},
        "columns": [block._asdict() for block in file.columns],
        "fingerprint": file.attribute("fingerprint"),
        "weights_path": file.attribute("weights_path"),
        "config": file.config.to_dict(),
        "failures": [{"path": file.path_of(i), "error": text} for i, text in errors.items()],
    }


def _describe_boxes(file: "FeatureFile") -> dict[str, Any]:
    from sppfeat.schema import NO_SCALE

    label, sides = file.row_label.tolist(), file.row_scale.tolist()
    return {
        "source": file.attribute("boxes_path") or file.config.to_dict()["boxes"],
        **file.count_boxes(),
        "images_without_boxes": int((file.image_rows[:, 0] == file.image_rows[:, 1]).sum()),
        "classes": {name: label.count(i) for i, name in enumerate(file.row_classes)},
        "scales": {str(side): sides.count(side) for side in sorted(set(sides) - {NO_SCALE})},
        "columns": list(file.row_extra),
    }


def _text(found: dict[str, Any]) -> str:
    images = found["images"]
    state = "complete" if found["complete"] else "incomplete: the same extract command continues it"
    lines = [
        ("file", f"{found['path']}, {human_bytes(found['bytes'])}, {state}"),
        (
            "made",
            f"{found['created']} by sppfeat {found['sppfeat_version']}, schema {found['schema_version']}",
        ),
        ("features", f"{found['rows']} rows x {found['dimension']} {found['dtype']}"),
        (
            "images",
            f"{images['total']}: {images['done']} done, {images['failed']} failed, {images['pending']} pending",
        ),
        ("root", found["root"]),
    ]
    boxes = found["boxes"]
    if boxes:
        lines.append(("boxes", f"{boxes['source']}: {box_counts_text(boxes)}"))
        if boxes["images_without_boxes"]:
            lines.append(("boxes", f"{boxes['images_without_boxes']} images have none"))
        if len(boxes["scales"]) > 1:
            lines.append(("scales", ", ".join(f"{side}: {n} rows" for side, n in boxes["scales"].items())))
        lines += _class_lines("of boxes", boxes["classes"])
    lines += _class_lines("classes", found["classes"])
    lines += [("columns", _column_text(block)) for block in found["columns"]]
    lines += [("setting", f"{name} = {value}") for name, value in found["config"].items()]
    failures = found["failures"]
    lines += [("failed", f"{failure['path']!r}: {failure['error']}") for failure in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(("failed", f"... and {len(failures) - _SHOWN} more: --json lists them"))
    return "\n".join(f"{name + ':':<10} {text}" for name, text in lines)


def _class_lines(name: str, classes: dict[str, int]) -> list[tuple[str, str]]:
    if not classes:
        return []
    shown = ", ".join(f"{name} {n}" for name, n in list(classes.items())[:_SHOWN])
    return [(name, f"{len(classes)}: {shown}{', ...' if len(classes) > _SHOWN else ''}")]


def _column_text(block: dict[str, Any]) -> str:
    return f"{block['start']}..{block['stop']}: {block['layer']}, level {block['level']}, {block['channels']} channels"
