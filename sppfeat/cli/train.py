"""``sppfeat train``: trains a network that contains the pyramid."""

import functools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli.bars import Bar, prepared
from sppfeat.cli.groups import EXIT_INTERRUPTED, EXIT_SOME_FAILED, leave
from sppfeat.cli.options import (
    device_option,
    given_options,
    json_option,
    option,
    output_option,
    pool_option,
    setting_option,
    settings_from,
    verbosity_options,
    weights_dir_option,
    workers_option,
)
from sppfeat.cli.output import joined_numbers, print_json, print_json_or_text, say
from sppfeat.cli.signals import Stop, stop_on_signals
from sppfeat.cli.train_texts import epoch_text, plan_text, result_text
from sppfeat.cli.values import (
    LEVELS,
    Parsed,
    auto_to_none,
    complete_backbones,
    complete_files,
    complete_weights,
    whole_numbers,
)
from sppfeat.config.request import BackboneChoice
from sppfeat.config.specs import DEFAULT_BACKBONE
from sppfeat.errors import ConfigError
from sppfeat.training.settings import (
    DISTILL_MODES,
    OPTIMIZERS,
    TRAIN_LABELS,
    TRAIN_PRECISIONS,
    VIEWS,
    WEIGHTS_DTYPES,
    DataSettings,
    NetworkSettings,
    Recipe,
    TeacherChoice,
    TrainRequest,
    TrainRun,
    TrainSettings,
    parse_sizes,
)

if TYPE_CHECKING:
    from sppfeat.training.run import Training
    from sppfeat.training.trainer import Progress

__all__ = ["train"]


def _sizes_type(name: str) -> Parsed:
    return Parsed("pixels,...", functools.partial(parse_sizes, name))


def _widths(text: str) -> tuple[int, ...]:
    return () if text == "none" else whole_numbers(text)


_WIDTHS = Parsed("n,...|none", _widths, refusal="{!r}; allowed: none, or numbers of units such as 512,512")
_TEACHER = Parsed("name[:layer,...][=weights]", TeacherChoice.parse)


@click.command(short_help="Train a network with the pyramid in it, by labels or by other networks.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=complete_files)
@output_option("The folder for weights (model.pth), checkpoints, log and the list of images.")
@option(
    "--val",
    "validation",
    multiple=True,
    metavar="INPUT",
    help="Images to validate on, in folders of the same classes; repeatable.",
)
@setting_option(DataSettings, "val_fraction", "Hold out this share of each class for validation.")
@setting_option(
    DataSettings,
    "labels",
    "Class labels from the first-level folders: if all images lie in two or more such folders; always.",
    type=click.Choice(TRAIN_LABELS),
)
@option(
    "--backbone",
    default=DEFAULT_BACKBONE,
    shell_complete=complete_backbones,
    help="Network to train; see 'sppfeat backbones'.",
)
@option(
    "--weights",
    default="none",
    shell_complete=complete_weights,
    metavar="NAME|FILE|none",
    help="Weights to begin with, as for 'extract'; none: random values.",
)
@weights_dir_option
@option("--layer", metavar="NODE", help="Layer that the pyramid pools. [default: the last feature map]")
@option("--freeze", is_flag=True, help="Keep the backbone as it is and train what is behind the pyramid.")
@option(
    "--levels",
    type=LEVELS,
    metavar="N,N,...",
    default=joined_numbers(NetworkSettings.levels),
    help="The pyramid: n stands for n x n bins.",
)
@pool_option
@option(
    "--hidden",
    type=_WIDTHS,
    metavar="N,...|none",
    default=joined_numbers(NetworkSettings.hidden),
    help="Widths of the fully connected layers between pyramid and classifier: fc6, fc7.",
)
@setting_option(NetworkSettings, "dropout", "Behind each of them.")
@option(
    "--teacher",
    "teachers",
    type=_TEACHER,
    multiple=True,
    metavar="NAME[:LAYER,...][=NAME|FILE]",
    help="Learn from this backbone (these layers of it, with these weights) instead of labels; repeatable.",
)
@setting_option(
    Recipe,
    "distill",
    "What a teacher is asked for: its feature map, or the descriptor that is pooled from it.",
    type=click.Choice(DISTILL_MODES),
)
@option(
    "--sizes",
    type=_sizes_type("sizes"),
    metavar="PIXELS,...",
    default=joined_numbers(DataSettings.sizes),
    help="Sizes of the network input; each epoch has one of them, in turn.",
)
@setting_option(
    DataSettings,
    "views",
    "crop: random crops, as squares; full: whole images at their own aspect ratio, in batches of equal shapes.",
    type=click.Choice(VIEWS),
)
@setting_option(
    DataSettings,
    "round_to",
    "With --views full: round both sides to multiples of K pixels; 1: not.",
    metavar="K",
)
@setting_option(DataSettings, "min_crop", "Smallest area of a random crop.")
@setting_option(
    DataSettings, "color", "Strength of random changes of brightness, contrast and saturation; 0: none."
)
@option("--flip/--no-flip", default=DataSettings.flip, help="Mirror half of the images.")
@option(
    "--val-sizes",
    type=_sizes_type("val-sizes"),
    metavar="PIXELS,...",
    help="Short sides at which validation images are run, whole. [default: those of --sizes]",
)
@setting_option(DataSettings, "val_every", "Epochs between validations.")
@setting_option(Recipe, "epochs", "Passes over the images.")
@setting_option(Recipe, "batch_size", "Images per step.")
@setting_option(Recipe, "optimizer", "sgd has Nesterov momentum 0.9.", type=click.Choice(OPTIMIZERS))
@option(
    "--lr",
    type=float,
    help="Highest learning rate; falls to 0 along a cosine. [default: 0.0005, with --teacher 0.002; sgd: 20 x that]",
)
@setting_option(Recipe, "weight_decay", "Of weights, not of biases and scales.")
@setting_option(Recipe, "warmup_epochs", "In which the learning rate rises.")
@setting_option(Recipe, "label_smoothing", "Share spread over all classes.")
@setting_option(
    Recipe,
    "ema",
    "Decay per step of the running mean of the weights, which is what is validated and saved; 0: none.",
)
@setting_option(Recipe, "seed", "Of initial weights, split, order, augmentation and dropout.")
@setting_option(
    Recipe, "precision", "bf16: autocast, weights in float32.", type=click.Choice(TRAIN_PRECISIONS)
)
@device_option
@workers_option
@setting_option(TrainRun, "weights_dtype", "Of the saved weights.", type=click.Choice(WEIGHTS_DTYPES))
@setting_option(TrainRun, "checkpoint_minutes", "Between checkpoints, besides those after each epoch.")
@option(
    "--resume", is_flag=True, help="Continue the training in the output folder, from its last checkpoint."
)
@option("--overwrite", is_flag=True, help="Start anew, whatever is in the output folder.")
@option("--dry-run", is_flag=True, help="Print the plan and stop.")
@json_option
@verbosity_options
def train(**options: Any) -> None:
    """Train a network with the pyramid in it, by labels or by other networks.

    INPUT is a folder, an image file, @FILE or -, as for 'extract'. With one folder per class the network learns
    the classes: backbone, pyramid, fully connected layers, classifier. With --teacher it needs no labels: it learns
    what the teachers' networks make of the same pixels.

    model.pth in the output folder is what 'extract --backbone ... --weights' takes. It says how it was made. Ctrl-C
    ends with a checkpoint, from which the same command with --resume continues as if nothing had been.

    Exit codes: 0 done; 1 error; 2 wrong usage; 3 finished, but some images could not be read; 130 interrupted.
    """
    for name, reason in _without_effect(options):
        for flag in given_options([name]):
            raise ConfigError(f"{flag} would have no effect: it is for {reason}")
    with stop_on_signals() as stop:
        result = _train(options, stop)
    if result and not result["finished"]:
        leave(EXIT_INTERRUPTED)
    if result and result["left_out"]:
        leave(EXIT_SOME_FAILED)


def _without_effect(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields parameters that have no effect with the other options, each with the options that it needs."""
    if options["teachers"]:
        for name in ("labels", "hidden", "dropout", "label_smoothing"):
            yield name, "class labels, which --teacher does without"
        if options["distill"] == "map":
            for name in ("levels", "pool"):
                yield name, "class labels and --distill descriptor"
    else:
        yield "distill", "--teacher"
    if options["views"] == "crop":
        yield "round_to", "--views full"
    else:
        yield "min_crop", "--views crop"
    if not (options["validation"] or options["val_fraction"]):
        for name in ("val_sizes", "val_every"):
            yield name, "--val and --val-fraction"


def _train(options: dict[str, Any], stop: Stop) -> dict[str, Any] | None:
    """Trains and returns the result; None after a dry run."""
    from sppfeat.training.run import prepare_training

    quiet, verbose, as_json = options["quiet"], options["verbose"], options["as_json"]
    request = _request(options)
    with prepared(
        lambda on_probe, on_download: prepare_training(request, on_probe=on_probe, on_download=on_download),
        "reading headers",
        shown=not quiet,
    ) as training:
        plan = training.summary()
        settings = request.settings.canonical() if verbose else None
        if request.run.dry_run:
            found = {"plan": plan, **({"settings": settings} if settings else {})}
            print_json_or_text(found, lambda: plan_text(plan, settings), as_json=as_json)
            return None
        if not quiet:
            say(plan_text(plan, settings))
        started = time.monotonic()
        finished = _run(training, stop, quiet)
        result = _result(training, finished, time.monotonic() - started)
    if not quiet:
        say(result_text(result, verbose))
    if as_json:
        print_json({"plan": plan, "result": result})
    return result


def _run(training: "Training", stop: Stop, quiet: bool) -> bool:
    """Trains with a bar and a line for each epoch; returns True if the training is finished."""
    n_said = len(training.trainer.progress.history)
    with Bar("training", training.trainer.n_steps, unit="step", shown=not quiet) as bar:

        def say_epochs() -> None:
            nonlocal n_said
            history = training.trainer.progress.history
            for entry in () if quiet else history[n_said:]:
                bar.say(epoch_text(entry))
            n_said = len(history)

        def on_step(progress: "Progress") -> None:
            stop.begin_batches()
            say_epochs()
            note = f"loss {progress.loss / max(1, progress.images):.4f}"
            bar.move_to(training.trainer.n_steps_done, note=note)

        bar.move_to(training.trainer.n_steps_done)
        try:
            finished = training.run(on_step=on_step, should_stop=stop.is_wanted, seconds=time.monotonic)
        except KeyboardInterrupt:
            say("\nInterrupted: the same command with --resume continues from the last checkpoint.")
            leave(EXIT_INTERRUPTED)
        say_epochs()
    return finished


def _result(training: "Training", finished: bool, seconds: float) -> dict[str, Any]:
    history = training.trainer.progress.history
    failures = [f"{path!r}: {reason}" for path, reason in training.left_out.items()]
    failures += training.trainer.progress.failures
    return {
        "finished": finished,
        "epochs": training.trainer.progress.epoch,
        "seconds": round(seconds, 1),
        "weights": str(training.folder.weights) if history else None,
        "left_out": failures,
        "last": history[-1] if history else None,
    }


def _request(options: dict[str, Any]) -> TrainRequest:
    settings = TrainSettings(
        backbone=BackboneChoice(
            name=options["backbone"],
            weights=options["weights"],
            layers=(options["layer"],) if options["layer"] else (),
            seed=options["seed"],
        ),
        data=settings_from(DataSettings, options, val_sizes=options["val_sizes"] or ()),
        network=settings_from(NetworkSettings, options),
        recipe=settings_from(Recipe, options, learning_rate=options["lr"]),
        teachers=options["teachers"],
    )
    run = settings_from(TrainRun, options, workers=auto_to_none(options["workers"]))
    return settings_from(TrainRequest, options, settings=settings, run=run)
