"""Settings of a training: images, network, optimization and run.

A field declares the default, the help text and the allowed values of a setting; the command line makes its options from
the fields. Checkpoints record the settings. This module imports neither torch nor numpy, because ``--help`` reads it.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from sppfeat.config.request import BackboneChoice
from sppfeat.config.specs import DEFAULT_LEVELS, parse_levels
from sppfeat.config.values import CHOICES, StrPath, check_choice, check_encoding, set_fields, whole_number
from sppfeat.errors import ConfigError
from sppfeat.files.outputs import format_suffix

__all__ = [
    "DataSettings",
    "NetworkSettings",
    "Recipe",
    "TeacherChoice",
    "TrainRequest",
    "TrainRun",
    "TrainSettings",
    "flag_of",
]

_MAX_SIDE = 4096
_LEARNING_RATES = {"adamw": 5e-4, "sgd": 0.01}
_TEACHER_RATES = {"adamw": 2e-3, "sgd": 0.04}
_MAX_SEED = 2**63 - 1  # torch's limit


def _setting(
    default: Any,
    text: str,
    *,
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    parse: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
    flag: str | None = None,
) -> Any:
    """Declares a field: help text and allowed values; ``parse`` converts a value or its text, or refuses it.

    ``metavar`` names the value in --help, ``flag`` its option without ``--`` if that is not the name of the field.
    """
    about = {"text": text, "choices": choices, "least": least, "most": most, "parse": parse}
    return field(default=default, metadata={**about, "metavar": metavar, "flag": flag})


def flag_of(setting: "dataclasses.Field[Any]") -> str:
    """Name of the option of a field, without ``--``, which error messages use, too."""
    return setting.metadata.get("flag") or setting.name.replace("_", "-")


def _check_fields(settings: Any) -> None:
    """Checks all fields of settings, and converts each to the form that is compared and recorded."""
    for setting in dataclasses.fields(settings):
        name, value, about = flag_of(setting), getattr(settings, setting.name), setting.metadata
        if about.get("choices"):
            check_choice(name, value, about["choices"])
        elif about.get("parse"):
            set_fields(settings, **{setting.name: about["parse"](value)})
        elif about.get("least") is not None and value is not None:
            is_whole = int in (setting.type, *get_args(setting.type))
            number = whole_number if is_whole else _number
            set_fields(settings, **{setting.name: number(name, value, about["least"], about["most"])})


def _number(name: str, value: Any, least: float, most: float) -> float:
    """Checks the range of a value and converts it to float, so that 0 and 0.0 are the same setting."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; allowed: {least:g} to {most:g}")
    return float(value)


def _parse_numbers(
    name: str, given: Any, least: int, most: int, *, unit: str, allowed: str
) -> tuple[int, ...]:
    """Parses numbers from text such as ``"180,224"``, or checks a sequence of integers."""
    parts = given.split(",") if isinstance(given, str) else list(given)
    try:
        numbers = [int(part) if isinstance(part, str) else part for part in parts]
    except ValueError as error:
        raise ConfigError(f"{name} are {given!r}; allowed: {allowed}") from error
    return tuple(whole_number(name, number, least, most, f" {unit}") for number in numbers)


def _parse_sizes(name: str, sizes: Any) -> tuple[int, ...]:
    allowed = "numbers of pixels such as 180,224"
    checked = _parse_numbers(name, sizes, 8, _MAX_SIDE, unit="pixels", allowed=allowed)
    if not checked or len(set(checked)) != len(checked):
        raise ConfigError(f"{name} are {sizes!r}; allowed: one or more different sizes")
    return checked


def _parse_hidden(widths: Any) -> tuple[int, ...]:
    allowed = "none, or numbers of units such as 512,512"
    widths = () if widths == "none" else widths
    return _parse_numbers("hidden", widths, 1, 65_536, unit="units", allowed=allowed)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings of the images: classes, validation, sizes in pixels, and random changes."""

    val_fraction: float = _setting(0.0, "Share of each class to hold out for validation.", least=0, most=0.9)
    labels: str = _setting(
        "auto",
        "Class labels: auto, folder (top level) or parent (of each image).",
        choices=("auto", "folder", "parent"),
        metavar="SOURCE",
    )
    sizes: tuple[int, ...] = _setting(
        (224,),
        "Sizes of the network input; epochs take them in turn.",
        parse=lambda sizes: _parse_sizes("sizes", sizes),
        metavar="PIXELS,...",
    )
    views: str = _setting(
        "crop",
        "Training views: crop (random square crops) or full (whole images, batched by shape).",
        choices=("crop", "full"),
    )
    round_to: int = _setting(
        32,
        "Round both sides of whole images to multiples of K pixels (--views full).",
        least=1,
        most=1024,
        metavar="K",
    )
    min_crop: float = _setting(
        0.2, "Smallest area of a random crop, as a share of the image.", least=0.01, most=1
    )
    color: float = _setting(
        0.3,
        "Strength of random brightness, contrast and saturation; 0 turns it off.",
        least=0,
        most=1,
        flag="color-jitter",
    )
    flip: bool = _setting(True, "Mirror half of the images at random.")
    val_sizes: tuple[int, ...] = _setting(
        (),
        "Short sides of whole validation images. [default: --sizes]",
        parse=lambda sizes: _parse_sizes("val-sizes", sizes) if sizes else (),
        metavar="PIXELS,...",
    )
    val_every: int = _setting(1, "Number of epochs between validations.", least=1)

    def __post_init__(self) -> None:
        _check_fields(self)
        set_fields(self, val_sizes=self.val_sizes or self.sizes)


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Settings of the layers after the backbone: the pyramid and the classifier."""

    freeze: bool = _setting(False, "Freeze the backbone and train only the layers after the pyramid.")
    levels: tuple[int, ...] = _setting(
        DEFAULT_LEVELS, "Pyramid levels of N x N bins.", parse=parse_levels, metavar="N,N,..."
    )
    pool: str = _setting("max", "Pooling operator within each bin.", choices=CHOICES["pool"])
    hidden: tuple[int, ...] = _setting(
        (512, 512),
        "Widths of the fully connected layers before the classifier.",
        parse=_parse_hidden,
        metavar="N,...|none",
    )
    dropout: float = _setting(0.5, "Dropout after each fully connected layer.", least=0, most=0.95)

    def __post_init__(self) -> None:
        _check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TeacherChoice:
    """A network to learn from: backbone, layers (the default layer if empty), and name or file of weights."""

    name: str
    layers: tuple[str, ...] = ()
    weights: str = BackboneChoice.weights

    @property
    def text(self) -> str:
        """The teacher as the text that :meth:`parse` takes."""
        layers = f":{','.join(self.layers)}" if self.layers else ""
        return f"{self.name}{layers}={self.weights}"

    @classmethod
    def parse(cls, text: str) -> "TeacherChoice":
        """Parses a teacher: ``NAME``, ``NAME:LAYER,LAYER``, ``NAME=WEIGHTS`` or ``NAME:LAYER,LAYER=WEIGHTS``.

        Example:
            >>> TeacherChoice.parse("resnet50:layer3,layer4=resnet50.pth")
            TeacherChoice(name='resnet50', layers=('layer3', 'layer4'), weights='resnet50.pth')
        """
        network, sign, weights = text.partition("=")
        name, colon, listed = network.partition(":")
        layers = tuple(listed.split(",")) if colon else ()
        if not name or (sign and not weights) or not all(layers):
            raise ConfigError(
                f"teacher is {text!r}; allowed: NAME or NAME:LAYER,LAYER, each with or without =WEIGHTS, "
                "such as resnet50:layer3,layer4=resnet50.pth"
            )
        return cls(name=name, layers=layers, weights=weights if sign else cls.weights)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of the optimization.

    The learning rate rises linearly from a hundredth of its peak in the warm-up, and falls to 0 along a cosine. The
    decay of the running mean of the weights (``ema``) is at most ``(1 + n) / (10 + n)`` in step ``n``.
    """

    distill: str = _setting(
        "map",
        "Target of distillation: the teacher's feature map or its pooled descriptor.",
        choices=("map", "descriptor"),
    )
    epochs: int = _setting(30, "Number of passes over the images.", least=1)
    batch_size: int = _setting(64, "Images per step.", least=1)
    optimizer: str = _setting(
        "adamw", "Optimizer: AdamW, or SGD with Nesterov momentum 0.9.", choices=("adamw", "sgd")
    )
    learning_rate: float | None = _setting(
        None,
        "Peak learning rate of the cosine schedule. [default: 0.0005; with --teacher 0.002; 20 times that for sgd]",
        least=1e-9,
        most=100,
        flag="lr",
    )
    weight_decay: float = _setting(0.02, "Weight decay, except for biases and scales.", least=0, most=10)
    warmup_epochs: float = _setting(1.0, "Number of epochs of linear warm-up.")
    label_smoothing: float = _setting(0.1, "Label smoothing.", least=0, most=0.9)
    ema: float = _setting(
        0.99,
        "Decay per step of the averaged weights, which are validated and saved; 0 turns it off.",
        least=0,
        most=0.999999,
    )
    seed: int = _setting(0, "Random seed.", least=0, most=_MAX_SEED)
    precision: str = _setting(
        "fp32", "Compute precision; bf16 is autocast with float32 weights.", choices=("fp32", "tf32", "bf16")
    )

    def __post_init__(self) -> None:
        _check_fields(self)
        set_fields(self, warmup_epochs=_number("warmup-epochs", self.warmup_epochs, 0, self.epochs))


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings that the result of a training depends on, besides its images and initial weights.

    ``teachers`` are the networks to learn from; without them, class labels are learned.
    """

    backbone: BackboneChoice
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    recipe: Recipe = field(default_factory=Recipe)
    teachers: tuple[TeacherChoice, ...] = ()

    def __post_init__(self) -> None:
        if len(self.backbone.layers) > 1:
            raise ConfigError(f"layers are {list(self.backbone.layers)}; allowed: one layer")
        if self.teachers and self.network.freeze:
            raise ConfigError("--freeze and --teacher contradict each other: a teacher trains the backbone")
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) != len(names):
            raise ConfigError(f"teachers are {', '.join(names)}; allowed: each network once")

    @property
    def learning_rate(self) -> float:
        """Peak learning rate: the one given, or a default."""
        if self.recipe.learning_rate is not None:
            return self.recipe.learning_rate
        return (_TEACHER_RATES if self.teachers else _LEARNING_RATES)[self.recipe.optimizer]

    def canonical(self) -> dict[str, Any]:
        """The settings as plain values in a fixed order."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return values


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """Settings of a run, which affect the result of the training only by rounding.

    ``device`` is as for ``extract``, ``weights_dir`` is a folder to search first for named weights, and ``workers`` the
    number of decoding processes (None: by the number of cores).
    """

    device: str = "auto"
    weights_dir: StrPath | None = None
    workers: int | None = _setting(None, "", least=0)
    weights_dtype: str = _setting(
        "float32", "Data type of the saved weights.", choices=("float32", "float16")
    )
    checkpoint_minutes: float = _setting(
        5.0, "Minutes between checkpoints within an epoch.", least=0, most=10_000
    )
    resume: bool = _setting(False, "Continue from the last checkpoint of the output folder.")
    overwrite: bool = _setting(False, "Start over and replace the files in the output folder.")
    dry_run: bool = _setting(False, "Print the plan and exit.")

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite contradict each other: leave one out")


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A request for a training: inputs to train on and to validate on, as for ``extract``, output folder and settings.

    ``encoding`` applies to text tables and lists without a byte order mark; None means UTF-8.
    """

    inputs: tuple[str, ...]
    output: Path
    settings: TrainSettings
    validation: tuple[str, ...] = ()
    run: TrainRun = field(default_factory=TrainRun)
    encoding: str | None = None

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if str(self.output) == "-" or format_suffix(self.output):
            raise ConfigError(
                f"the output {str(self.output)!r} is not a folder; give one, such as 'run', for the network "
                "(model.pth), its checkpoint and the log"
            )
        if self.validation and self.settings.data.val_fraction:
            raise ConfigError("--val and --val-fraction contradict each other: leave one out")
