"""``sppfeat train``: trains a network that contains the pyramid."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli import options
from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.command import command
from sppfeat.cli.groups import EXIT_INTERRUPTED, EXIT_SOME_FAILED, Stop, leave
from sppfeat.cli.option_types import ANY_PATH, PATH, Parsed
from sppfeat.cli.options import given_options, option, together
from sppfeat.cli.output import first_of, joined_numbers, labeled_lines, print_json, print_json_or_text, say
from sppfeat.config.request import BackboneChoice, settings_from
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError
from sppfeat.training.settings import (
    DataSettings,
    NetworkSettings,
    Recipe,
    TeacherChoice,
    TrainRequest,
    TrainRun,
    TrainSettings,
    flag_of,
)

if TYPE_CHECKING:
    from sppfeat.training.run import TrainPlan, TrainResult
    from sppfeat.training.trainer import EpochEntry

__all__ = ["train"]

_SHOWN = 5
_TEACHER = Parsed("name[:layer,...][=weights]", TeacherChoice.parse)


def _settings(kind: type[Any]) -> Callable[[Any], Any]:
    """Declares the options of the fields of a settings dataclass that have a help text."""
    return together(*(_setting(field) for field in dataclasses.fields(kind) if field.metadata.get("text")))


def _setting(setting: "dataclasses.Field[Any]") -> Callable[[Any], Any]:
    """Declares the option of a field of a settings dataclass."""
    about, flag = setting.metadata, f"--{flag_of(setting)}"
    default: Any = setting.default
    more: dict[str, Any] = {"help": about["text"], "metavar": about["metavar"]}
    more["former"] = "--color" if setting.name == "color" else ""
    if default is False:
        more["is_flag"] = True
    elif default is True:
        flag, more["default"] = f"{flag}/--no-{flag_of(setting)}", True
    elif about["parse"]:
        more["type"] = Parsed(about["metavar"].lower(), about["parse"])
        more["default"] = joined_numbers(default) or None
    else:
        kind = click.Choice(about["choices"]) if about["choices"] else type(default)
        more |= {"type": float if default is None else kind, "default": default}
    return option(flag, setting.name, **more)


@command(
    examples=(
        "sppfeat train photos -o run --val-fraction 0.1",
        "sppfeat train train -o run --val val --backbone resnet18 --weights DEFAULT",
        "sppfeat train photos -o run --teacher resnet50",
        "sppfeat train photos -o run --resume",
    ),
    groups={
        "Images and labels": "--val --val-fraction --labels | --encoding",
        "Output and resume": "--output --resume --overwrite --dry-run | --checkpoint-minutes --weights-dtype",
        "Network": "--backbone --weights --freeze --levels | --layer --pool --hidden --dropout --weights-dir",
        "Distillation": "--teacher | --distill",
        "Views": "--sizes --views | --round-to --min-crop --color-jitter --flip --val-sizes --val-every",
        "Optimization": "--epochs --batch-size --lr --optimizer --seed | --weight-decay --warmup-epochs "
        "--label-smoothing --ema",
        "Running": "--device --precision --workers --json --verbose --quiet",
    },
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=ANY_PATH)
@options.output("Folder for weights (model.pth), checkpoints and log.", PATH)
@option(
    "--val",
    "validation",
    multiple=True,
    metavar="INPUT",
    help="Validation images, in folders of the same classes; repeatable.",
)
@_settings(DataSettings)
@options.encoding("text tables and lists")
@options.backbone_name("Network to train")
@options.weights("none", "Initial weights: a name, a file or none (random).")
@options.weights_dir
@option("--layer", metavar="NODE", help="Layer to pool. [default: last feature map]")
@_settings(NetworkSettings)
@option(
    "--teacher",
    "teachers",
    type=_TEACHER,
    multiple=True,
    metavar="TEACHER",
    help="Learn from this backbone instead of labels: NAME[:LAYER,...][=WEIGHTS]; repeatable.",
)
@_settings(Recipe)
@options.device
@options.workers
@_settings(TrainRun)
@options.json
@options.verbosity
@click.pass_obj
def train(stop: Stop, /, *, quiet: bool, verbose: bool, as_json: bool, **values: Any) -> None:
    """Train or fine-tune an SPP network, from labels or by distillation.

    INPUT is a folder, image file, @FILE or -, as for 'sppfeat extract'. With one folder per class, the network
    (backbone, pyramid, fully connected layers) learns the classes. With --teacher, the backbone learns the features of
    other networks and needs no labels.

    Use the result with 'sppfeat extract --backbone NAME --weights run/model.pth'. Ctrl-C saves a checkpoint; --resume
    continues as if uninterrupted.
    """
    for name, reason in _without_effect(values):
        for given in given_options([name]):
            raise ConfigError(f"{given} {reason}")
    from sppfeat.training.run import train as run_training

    request = _request(values)
    dry = request.run.dry_run
    settings = request.settings.canonical() if verbose else None
    with contextlib.ExitStack() as stack:
        bars = [stack.enter_context(Bar("preparing", 0, unit="image", shown=not quiet))]
        on_download = stack.enter_context(download_bar())

        def on_plan(plan: "TrainPlan") -> None:
            bars[0].close()
            if not dry and not quiet:
                say(_plan_text(plan, settings))
            bars.append(
                stack.enter_context(Bar("training", plan["steps"], unit="step", shown=not (quiet or dry)))
            )
            bars[1].move_to(plan["steps_done"])

        def on_step(n_done: int, loss: float) -> None:
            stop.begin_batches()
            bars[1].move_to(n_done, note=f"loss {loss:.4f}")

        def on_epoch(entry: "EpochEntry") -> None:
            if not quiet:
                say(_epoch_text(entry))

        try:
            found = run_training(
                request,
                on_probe=lambda n, total: bars[0].move_to(n, total, label="reading headers"),
                on_download=on_download,
                on_plan=on_plan,
                on_step=on_step,
                on_epoch=on_epoch,
                should_stop=stop.is_wanted,
            )
        except KeyboardInterrupt:
            if len(bars) == 1:
                raise
            say("\nInterrupted: the same command with --resume continues from the last checkpoint.")
            leave(EXIT_INTERRUPTED)
    if dry:
        found |= {"settings": settings} if settings else {}
        print_json_or_text(found, _plan_text(found["plan"], settings), as_json=as_json)
        return
    result = found["result"]
    if not quiet:
        say(_result_text(result, verbose))
    if as_json:
        print_json(found)
    if not result["finished"]:
        leave(EXIT_INTERRUPTED)
    if result["left_out"]:
        leave(EXIT_SOME_FAILED)


def _without_effect(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields parameters that have no effect with the other options, each with the rest of a message."""
    if values["teachers"]:
        for name in ("labels", "hidden", "dropout", "label_smoothing"):
            yield name, "has no effect with --teacher"
        if values["distill"] == "map":
            for name in ("levels", "pool"):
                yield name, "has no effect with --teacher; add --distill descriptor"
    else:
        yield "distill", "needs --teacher"
    if values["views"] == "crop":
        yield "round_to", "needs --views full"
    else:
        yield "min_crop", "needs --views crop"
    if not (values["validation"] or values["val_fraction"]):
        for name in ("val_sizes", "val_every"):
            yield name, "needs --val or --val-fraction"


def _request(values: dict[str, Any]) -> TrainRequest:
    settings = TrainSettings(
        backbone=BackboneChoice(
            name=values["backbone"],
            weights=values["weights"],
            layers=(values["layer"],) if values["layer"] else (),
            seed=values["seed"],
        ),
        data=settings_from(DataSettings, values, val_sizes=values["val_sizes"] or ()),
        network=settings_from(NetworkSettings, values),
        recipe=settings_from(Recipe, values),
        teachers=values["teachers"],
    )
    run = settings_from(TrainRun, values)
    return settings_from(TrainRequest, values, settings=settings, run=run)


def _plan_text(plan: "TrainPlan", settings: dict[str, Any] | None) -> str:
    """Formats a plan as lines of text, with the settings at the end if they are given."""
    labels = counted(plan["classes"], "class") if plan["classes"] else "no labels"
    images = f"{counted(plan['images'], 'image')}, {labels}; {plan['validation_images']} to validate on" + (
        f"; {plan['left_out']} left out" if plan["left_out"] else ""
    )
    network = (
        f"{plan['backbone']} ({plan['weights']}), layer {plan['layer']}, "
        f"{plan['parameters'] / 1e6:.2f} million parameters in training"
    )
    done = f", {plan['epochs_done']} done" if plan["steps_done"] else ""
    lines = [
        ("train", images),
        ("network", network),
        *([("teachers", ", ".join(plan["teachers"]))] if plan["teachers"] else []),
        ("steps", f"{plan['steps']} in {counted(plan['epochs'], 'epoch')}{done}"),
        ("device", f"{plan['device']}, {plan['precision']}"),
        ("output", plan["output"]),
        *(("note", note) for note in plan["notes"]),
    ]
    text = labeled_lines(lines, width=12)
    return text if settings is None else "\n".join([text, "settings:", json.dumps(settings, indent=2)])


def _epoch_text(entry: "EpochEntry") -> str:
    """Formats the log entry of an epoch as a line."""
    text = (
        f"epoch {entry['epoch']}: size {entry['size']}, loss {entry['loss']:.4f}, "
        f"{entry['images'] / max(entry['seconds'], 1e-9):.1f} images/s"
    )
    for size, scores in entry.get("validation", {}).items():
        shares = [f"{name} {100 * v:.1f} %" for name, v in scores.items() if name not in ("images", "loss")]
        text += f"; validation at {size}: loss {scores['loss']:.4f}, {', '.join(shares)}"
    return text


def _result_text(result: "TrainResult", verbose: bool) -> str:
    """Formats the result of a training as lines of text, with all left-out images if ``verbose``."""
    if result["finished"]:
        came = f"Done: {counted(result['epochs'], 'epoch')}; weights in {result['weights']}"
    else:
        came = f"Stopped after {counted(result['epochs'], 'whole epoch')}: the same command with --resume continues."
    left_out = [f"left out: {failure}" for failure in result["left_out"]]
    shown = None if verbose else _SHOWN
    return "\n".join([came, *first_of(left_out, shown, more="left out: {} more (-v shows all)")])
