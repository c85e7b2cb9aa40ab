"""``sppfeat probe``: cross-validates a linear classifier on a feature file."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sppfeat
from sppfeat.analysis.choices import CLASS_WEIGHTS, ProbeSettings
from sppfeat.cli import options
from sppfeat.cli.bars import Bar
from sppfeat.cli.command import command
from sppfeat.cli.option_types import ABOVE_ZERO, OUTPUT_FILE
from sppfeat.cli.options import count, flag, option, path, setting
from sppfeat.cli.output import joined_numbers, print_json, print_result, say, table
from sppfeat.config.wording import counted, escaped, first_few

if TYPE_CHECKING:
    from sppfeat.analysis.probe.validation import ProbeResult, Score

__all__ = ["probe"]

_SHOWN = 10
_SHOWN_SETTINGS = ("folds", "repeats", "seed", "C", "class_weight", "min_per_class")


@command(
    examples=("sppfeat probe features.h5", "sppfeat probe features.h5 --save model.npz"),
    groups={
        "Rows and labels": "--labels --rows --layer --levels | --min-per-class --encoding",
        "Cross-validation": "--folds --seed --C --no-ablation | --repeats --class-weight --max-memory",
        "Output": "--save --overwrite --json --quiet | --max-confusions",
    },
)
@options.feature_file("features")
@setting(ProbeSettings, "folds", "Number of cross-validation folds.", type=click.IntRange(2))
@setting(
    ProbeSettings, "repeats", "Number of cross-validations with different folds.", type=click.IntRange(1)
)
@setting(ProbeSettings, "seed", "Random seed of the folds.", type=click.IntRange(0, 2**31))
@option(
    "--C", "C", type=float, default=ProbeSettings.C, help="Inverse regularization strength, as in LinearSVC."
)
@setting(
    ProbeSettings,
    "class_weight",
    "Weights: balanced gives all classes the same weight, none all rows.",
    type=click.Choice(CLASS_WEIGHTS),
)
@count(
    "--min-per-class",
    "Skip classes with fewer rows, or of boxes: with fewer images. [default: --folds]",
    metavar="N",
)
@flag("--no-ablation", "Skip the scores of single levels and layers.")
@count(
    "--max-confusions",
    "Number of confused pairs of classes to show.",
    least=0,
    default=_SHOWN,
    former="--pairs",
)
@options.selection
@path("--save", "MODEL", "Fit a classifier on all rows and save it for 'sppfeat predict'.", OUTPUT_FILE)
@options.overwrite
@option(
    "--max-memory",
    type=ABOVE_ZERO,
    metavar="GB",
    help="Memory limit. [default: a quarter of the machine's memory]",
)
@options.json
@options.quiet
def probe(features: Path, max_confusions: int, as_json: bool, quiet: bool, **values: Any) -> None:
    """Cross-validate a linear classifier on the features; optionally save it.

    The classifier is ridge regression, one class against the rest. Prints the accuracy and the mean class accuracy with
    their spread over the folds, the scores of each level and layer alone on the same folds, and the most frequent
    confusions. All boxes of an image stay in one fold.
    """
    max_memory = values.pop("max_memory")
    values["max_nbytes"] = None if max_memory is None else int(min(max_memory, 2.0**30) * 1e9)
    values["ablation"] = not values.pop("no_ablation")
    with Bar("probing", 1, unit="step", shown=not quiet) as bar:
        result = sppfeat.probe(features, on_progress=bar.move_to, **values)
    values["min_per_class"] = values["min_per_class"] or values["folds"]
    model = values["save"]
    if as_json:
        settings = {name: values[name] for name in _SHOWN_SETTINGS}
        found = {"path": str(features), **settings, **dataclasses.asdict(result)}
        print_json({**found, "model": None if model is None else str(model)})
        return
    print_result(_text(features, result, values, n_pairs=max_confusions))
    if model is not None:
        say(f"wrote {model!s}, a classifier fitted on all {result.n_rows} rows")


def _text(features: Path, result: "ProbeResult", settings: dict[str, Any], *, n_pairs: int) -> str:
    scores = [
        ["accuracy", _percent(result.accuracy)],
        ["mean over classes", _percent(result.class_accuracy)],
        ["largest class (chance)", f"{100 * result.chance:.1f}"],
    ]
    parts = ["\n".join(_notes(features, result, settings)), table(["", "%"], scores, right={1})]
    if result.ablation:
        parts.append(_ablation_table(result))
    if result.confusions and n_pairs:
        pairs = [
            [escaped(pair.true), escaped(pair.predicted), str(pair.count), f"{100 * pair.share:.1f}"]
            for pair in result.confusions[:n_pairs]
        ]
        parts.append(table(["class", "taken for", "times", "% of the class"], pairs, right={2, 3}))
    return "\n\n".join(parts)


def _notes(features: Path, result: "ProbeResult", settings: dict[str, Any]) -> list[str]:
    times = f", {settings['repeats']} times" if settings["repeats"] > 1 else ""
    grouped = ", boxes of an image together" if result.grouped else ""
    rows = counted(sum(size.n_rows for size in result.left_out), "row")
    least = counted(settings["min_per_class"], "image" if result.grouped else "row")
    shown = first_few((f"{escaped(size.name)} {size.n_members}" for size in result.left_out), _SHOWN)
    too_few = f" with fewer than {least} (--min-per-class) skipped, {rows}: {shown}"
    notes = [
        (result.n_unlabelled, "row without label was", "rows without label were", " skipped"),
        (len(result.left_out), "class", None, too_few),
        (result.n_pending, "image is", "images are", " pending: the extraction is not finished"),
        (result.n_failed, "image failed and has", "images failed and have", " no descriptor"),
    ]
    return [
        f"{features}: {counted(result.n_rows, 'row')} of {counted(result.dimension, 'value')}, "
        f"{result.n_classes} classes, {counted(result.n_images, 'image')}; {settings['folds']} folds{times}{grouped}",
        *(f"note: {counted(n, one, many)}{rest}" for n, one, many, rest in notes if n),
    ]


def _ablation_table(result: "ProbeResult") -> str:
    rows = []
    for part in result.ablation:
        layers = ", ".join(map(escaped, part.layers))
        name = layers if part.kind == "layer" else joined_numbers(part.levels)
        scores = [_percent(part.accuracy), _percent(part.class_accuracy)]
        difference = f"{100 * part.difference.mean:+.1f} ± {100 * part.difference.std:.1f}"
        rows.append([f"{part.kind.split()[0]} {name}", layers, str(part.dimension), *scores, difference])
    rows[0][0], rows[0][-1] = "all", ""
    header = ["part", "layers", "values", "accuracy %", "mean over classes %", "difference"]
    if len(result.ablation[0].layers) == 1:
        header, *rows = [[row[0], *row[2:]] for row in (header, *rows)]
    return table(header, rows, right=set(range(len(header) - 4, len(header))))


def _percent(score: "Score") -> str:
    return f"{100 * score.mean:.1f} ± {100 * score.std:.1f}"
