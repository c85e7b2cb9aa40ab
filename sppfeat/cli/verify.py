"""``sppfeat verify``: checks a feature file, and compares rows with rows computed again."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sppfeat
from sppfeat.cli import options
from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.command import command
from sppfeat.cli.groups import EXIT_ERROR, leave
from sppfeat.cli.options import count, option
from sppfeat.cli.output import print_json_or_text
from sppfeat.config.wording import counted

if TYPE_CHECKING:
    from sppfeat.analysis.inspection import Verification

__all__ = ["verify"]


@command()
@options.feature_file()
@count(
    "--recompute", "Compute this many random rows again and compare them.", least=0, default=0, metavar="N"
)
@option("--seed", type=int, default=0, help="Random seed of --recompute.")
@options.root
@options.recorded_weights
@options.json
@options.quiet
def verify(file: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Check a feature file for corruption; optionally recompute random rows.

    The checks cover the structure of the file, NaN and infinities, zero and duplicate rows, and images that changed
    since they were extracted. Zero rows, duplicates and changed images are warnings; any other finding is a problem
    and gives exit code 1.

    A recomputed row may differ by a relative l2 distance of 1e-5 for fp32, 0.01 for tf32 and fp16, and 0.06 for bf16;
    float16 files may differ by 0.001 more.
    """
    with Bar("verifying", 0, unit="row", shown=not quiet) as bar, download_bar() as on_download:
        found = sppfeat.verify(file, on_progress=bar.move_to, on_download=on_download, **values)
    print_json_or_text(dataclasses.asdict(found), _text(found), as_json=as_json)
    if not found.ok:
        leave(EXIT_ERROR)


def _text(found: "Verification") -> str:
    lines = [
        f"{found.path}: {counted(found.images, 'image')}: {found.done} done, {found.failed} failed, "
        f"{found.pending} pending; {counted(found.rows, 'row')}"
    ]
    again = found.recomputed
    if again:
        lines.append(
            f"{counted(len(again.rows), 'row')} computed again: largest relative difference "
            f"{again.largest_difference:.1e} (allowed {again.tolerance:g})"
        )
    problems = [*found.problems, *(again.problems if again else ())]
    lines += [f"warning: {text}" for text in found.warnings]
    lines += [f"problem: {text}" for text in problems]
    return "\n".join([*lines, counted(len(problems), "problem") if problems else "ok"])
