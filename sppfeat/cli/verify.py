"""``sppfeat verify``: checks a feature file, and compares rows with rows computed again."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.groups import EXIT_ERROR, leave
from sppfeat.cli.options import (
    feature_file_argument,
    json_option,
    option,
    quiet_option,
    recorded_weights_options,
    root_option,
)
from sppfeat.cli.output import print_json_or_text
from sppfeat.config.wording import counted

__all__ = ["verify"]


@click.command(short_help="Check a feature file, and compute rows again.")
@feature_file_argument()
@option(
    "--recompute",
    type=click.IntRange(0),
    default=0,
    metavar="K",
    help="Compute K random rows again and compare.",
)
@option("--seed", type=int, default=0, help="Of the choice of rows.")
@root_option
@recorded_weights_options
@json_option
@quiet_option
def verify(
    file: Path,
    recompute: int,
    seed: int,
    root: str | None,
    weights: str | None,
    weights_dir: str | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check a feature file: structure, NaN, infinities, zero and duplicate rows, status counts.

    With --recompute K, K random rows are computed again from their images, one at a time, and compared:
    relative l2 difference at most 1e-5 for fp32 (0.01 for tf32 and fp16, 0.06 for bf16; 0.001 more for
    float16 files).

    Exit code 1 if there is a problem. Zero and duplicate rows are warnings: images may be like that.
    """
    from sppfeat.extraction.recompute import recompute_rows
    from sppfeat.store.reader import FeatureFile
    from sppfeat.store.verify import verify_file

    with FeatureFile(file) as features:
        with Bar("verifying", features.n_rows, unit="row", shown=not quiet) as bar:
            report = verify_file(features, on_progress=bar.move_to)
        result: dict[str, Any] = {"path": str(file), **dataclasses.asdict(report), "recomputed": None}
        problems = list(report.problems)
        if recompute and not problems:
            with download_bar() as on_download:
                again = recompute_rows(
                    features,
                    recompute,
                    seed=seed,
                    root=root,
                    weights=weights,
                    weights_dir=weights_dir,
                    device=device,
                    on_download=on_download,
                )
            result["recomputed"] = dataclasses.asdict(again)
            problems += again.problems
    result["ok"] = not problems
    print_json_or_text(result, lambda: _text(result, problems), as_json=as_json)
    if problems:
        leave(EXIT_ERROR)


def _text(result: dict[str, Any], problems: list[str]) -> str:
    lines = [
        f"{result['path']}: {counted(result['images'], 'image')}: {result['done']} done, {result['failed']} failed, "
        f"{result['pending']} pending; {counted(result['rows'], 'row')}"
    ]
    again = result["recomputed"]
    if again:
        lines.append(
            f"{counted(len(again['rows']), 'row')} computed again: largest relative difference "
            f"{again['largest_difference']:.1e} (allowed {again['tolerance']:g})"
        )
    lines += [f"warning: {text}" for text in result["warnings"]]
    lines += [f"problem: {text}" for text in problems]
    lines.append(counted(len(problems), "problem") if problems else "ok")
    return "\n".join(lines)
