"""``sppfeat info``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli.options import json_option
from sppfeat.cli.output import human_bytes, print_json, print_result

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
        "root": file.root,
        "classes": {name: int((labels == i).sum()) for i, name in enumerate(file.classes)},
        "columns": [block._asdict() for block in file.columns],
        "fingerprint": file.attribute("fingerprint"),
        "weights_path": file.attribute("weights_path"),
        "config": file.config.to_dict(),
        "failures": [{"path": file.path_of(i), "error": text} for i, text in errors.items()],
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
    classes = found["classes"]
    if classes:
        shown = ", ".join(f"{name} {n}" for name, n in list(classes.items())[:_SHOWN])
        lines.append(("classes", f"{len(classes)}: {shown}{', ...' if len(classes) > _SHOWN else ''}"))
    lines += [("columns", _column_text(block)) for block in found["columns"]]
    lines += [("setting", f"{name} = {value}") for name, value in found["config"].items()]
    failures = found["failures"]
    lines += [("failed", f"{failure['path']!r}: {failure['error']}") for failure in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(("failed", f"... and {len(failures) - _SHOWN} more: --json lists them"))
    return "\n".join(f"{name + ':':<10} {text}" for name, text in lines)


def _column_text(block: dict[str, Any]) -> str:
    return f"{block['start']}..{block['stop']}: {block['layer']}, level {block['level']}, {block['channels']} channels"
