"""Settings of a training: images, network, optimization and run; checked here, and recorded in its checkpoints.

Imports neither torch nor numpy, because the command line reads its defaults here.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sppfeat.config.request import BackboneChoice
from sppfeat.config.specs import DEFAULT_LEVELS, POOL_MODES, parse_levels
from sppfeat.config.values import StrPath, check_choice, set_fields, whole_number
from sppfeat.errors import ConfigError

__all__ = [
    "DISTILL_MODES",
    "OPTIMIZERS",
    "TRAIN_LABELS",
    "TRAIN_PRECISIONS",
    "VIEWS",
    "WEIGHTS_DTYPES",
    "DataSettings",
    "NetworkSettings",
    "Recipe",
    "TeacherChoice",
    "TrainRequest",
    "TrainRun",
    "TrainSettings",
    "parse_sizes",
]

TRAIN_LABELS = ("auto", "folder")
VIEWS = ("crop", "full")
DISTILL_MODES = ("map", "descriptor")
OPTIMIZERS = ("adamw", "sgd")
TRAIN_PRECISIONS = ("fp32", "tf32", "bf16")
WEIGHTS_DTYPES = ("float32", "float16")

_MAX_SIDE = 4096
_LEARNING_RATES = {"adamw": 5e-4, "sgd": 0.01}
_TEACHER_RATES = {"adamw": 2e-3, "sgd": 0.04}
_MAX_SEED = 2**63 - 1  # torch's limit


def parse_sizes(name: str, sizes: Any) -> tuple[int, ...]:
    """Parses sizes from text such as ``"180,224"``, or checks a sequence of integers.

    Raises:
        ConfigError: there is no size, a size is repeated, or a size is not a valid number of pixels.

    Example:
        >>> parse_sizes("sizes", "180,224")
        (180, 224)
    """
    parts = sizes.split(",") if isinstance(sizes, str) else list(sizes)
    try:
        numbers = tuple(int(part) if isinstance(part, str) else part for part in parts)
    except ValueError as error:
        raise ConfigError(f"{name} are {sizes!r}; allowed: numbers of pixels such as 180,224") from error
    checked = tuple(whole_number(name, number, 8, _MAX_SIDE, unit=" pixels") for number in numbers)
    if not checked or len(set(checked)) != len(checked):
        raise ConfigError(f"{name} are {sizes!r}; allowed: one or more, each once")
    return checked


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings of the images: classes, validation, sizes and random changes.

    Attributes:
        labels: source of the classes; see :func:`sppfeat.inputs.list_images`.
        val_fraction: share of each class (or of all images if there are no classes) to hold out for validation.
        sizes: short sides of the network input, in pixels; epochs use them in turn.
        views: ``crop`` (random crops, resized to squares) or ``full`` (whole images at their own aspect ratio, in
            batches of equal shapes).
        min_crop: smallest area of a random crop, as a share of the image.
        color: strength of random changes of brightness, contrast and saturation; 0 for none.
        flip: mirror a random half of the images.
        round_to: with ``full``, round sides to multiples of this number of pixels, so that there are few shapes.
        val_sizes: short sides for whole validation images, in pixels; ``sizes`` if empty.
        val_every: number of epochs between validations; the last epoch always has one.
    """

    labels: str = "auto"
    val_fraction: float = 0.0
    sizes: tuple[int, ...] = (224,)
    views: str = "crop"
    min_crop: float = 0.2
    color: float = 0.3
    flip: bool = True
    round_to: int = 32
    val_sizes: tuple[int, ...] = ()
    val_every: int = 1

    def __post_init__(self) -> None:
        check_choice("labels", self.labels, TRAIN_LABELS)
        check_choice("views", self.views, VIEWS)
        set_fields(self, sizes=parse_sizes("sizes", self.sizes))
        val_sizes = parse_sizes("val-sizes", self.val_sizes) if self.val_sizes else self.sizes
        set_fields(self, val_sizes=val_sizes, round_to=whole_number("round-to", self.round_to, 1, 1024))
        set_fields(
            self,
            val_every=whole_number("val-every", self.val_every, 1),
            val_fraction=_number("val-fraction", self.val_fraction, 0, 0.9),
            min_crop=_number("min-crop", self.min_crop, 0.01, 1),
            color=_number("color", self.color, 0, 1),
        )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Settings of the layers after the backbone: the pyramid and the classifier.

    Attributes:
        levels: levels of the pyramid; level ``n`` has ``n x n`` bins.
        pool: pooling within a bin, ``max`` or ``avg``.
        hidden: widths of the fully connected layers between the pyramid and the classifier (fc6, fc7, ...).
        dropout: share of the hidden values to drop in training.
        freeze: train only the layers after the backbone.
    """

    levels: tuple[int, ...] = DEFAULT_LEVELS
    pool: str = "max"
    hidden: tuple[int, ...] = (512, 512)
    dropout: float = 0.5
    freeze: bool = False

    def __post_init__(self) -> None:
        set_fields(self, levels=parse_levels(self.levels))
        check_choice("pool", self.pool, POOL_MODES)
        set_fields(
            self, hidden=tuple(whole_number("hidden", n, 1, 65_536, unit=" units") for n in self.hidden)
        )
        set_fields(self, dropout=_number("dropout", self.dropout, 0, 0.95))


@dataclass(frozen=True, kw_only=True)
class TeacherChoice:
    """A network to learn from.

    Attributes:
        name: name of the backbone.
        layers: node names of layers; the default layer of the backbone if empty.
        weights: name or file of the weights; see :func:`sppfeat.networks.backbones.load_backbone`.
    """

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

        Raises:
            ConfigError: the name is missing, or nothing follows ``:`` or ``=``.

        Example:
            >>> TeacherChoice.parse("resnet50:layer3,layer4=resnet50.pth")
            TeacherChoice(name='resnet50', layers=('layer3', 'layer4'), weights='resnet50.pth')
        """
        network, sign, weights = text.partition("=")
        name, colon, listed = network.partition(":")
        layers = tuple(listed.split(",")) if colon else ()
        if not name or (sign and not weights) or not all(layers):
            raise ConfigError(
                f"teacher is {text!r}; allowed: NAME, NAME:LAYER,LAYER, and =WEIGHTS behind either, "
                "such as resnet50:layer3,layer4=resnet50.pth"
            )
        return cls(name=name, layers=layers, weights=weights if sign else cls.weights)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of the optimization.

    Attributes:
        epochs: number of passes over the training images.
        batch_size: number of images per step.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum 0.9.
        learning_rate: peak learning rate, reached after the warm-up, from which it falls to 0 along a cosine; if None,
            a default that depends on the optimizer.
        weight_decay: decay of weights; biases and normalizations are exempt.
        warmup_epochs: number of epochs in which the learning rate rises linearly from a hundredth of its peak.
        label_smoothing: share of the target that is spread over all classes.
        ema: decay per step of the exponential moving average of the parameters, which is validated and saved; at most
            ``(1 + n) / (10 + n)`` in step ``n``; 0 for no average.
        distill: target from a teacher: its feature ``map``, or the ``descriptor`` pooled from it.
        seed: seed of initial values, order, augmentation and dropout.
        precision: ``fp32``, ``tf32``, or ``bf16`` (autocast, with parameters in float32).
    """

    epochs: int = 30
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 0.02
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.1
    ema: float = 0.99
    distill: str = "map"
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        set_fields(
            self,
            epochs=whole_number("epochs", self.epochs, 1),
            batch_size=whole_number("batch-size", self.batch_size, 1),
            seed=whole_number("seed", self.seed, 0, _MAX_SEED),
        )
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("distill", self.distill, DISTILL_MODES)
        check_choice("precision", self.precision, TRAIN_PRECISIONS)
        if self.learning_rate is not None:
            set_fields(self, learning_rate=_number("lr", self.learning_rate, 1e-9, 100))
        set_fields(
            self,
            weight_decay=_number("weight-decay", self.weight_decay, 0, 10),
            warmup_epochs=_number("warmup-epochs", self.warmup_epochs, 0, self.epochs),
            label_smoothing=_number("label-smoothing", self.label_smoothing, 0, 0.9),
            ema=_number("ema", self.ema, 0, 0.999999),
        )


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All settings that the result of a training depends on, apart from its images and its initial weights.

    Attributes:
        backbone: the network to train.
        data: the images.
        network: the layers after the backbone.
        recipe: the optimization.
        teachers: networks to learn from; empty to learn class labels.
    """

    backbone: BackboneChoice
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    recipe: Recipe = field(default_factory=Recipe)
    teachers: tuple[TeacherChoice, ...] = ()

    def __post_init__(self) -> None:
        if len(self.backbone.layers) > 1:
            raise ConfigError(f"layers are {list(self.backbone.layers)}; a training takes one")
        if self.teachers and self.network.freeze:
            raise ConfigError("freeze: a teacher trains the backbone, which is to be kept as it is")
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) != len(names):
            raise ConfigError(f"teachers are {', '.join(names)}; each can be given once")

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

    def fingerprint(self) -> str:
        """SHA-256 of :meth:`canonical`."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """Settings of a run, which affect the result of the training only by rounding.

    Attributes:
        device: device to train on, ``auto`` or a torch device, as for ``extract``.
        weights_dir: folder to search first for named weights; None to search only the usual places.
        workers: number of processes that decode and augment; None to choose by the number of cores; 0 to use none.
        weights_dtype: number type of the saved weights.
        resume: continue the training in the folder.
        overwrite: start again, even if the folder holds a training.
        checkpoint_minutes: minutes between checkpoints, in addition to those after each epoch.
        dry_run: only plan; write nothing and take no lock.
    """

    device: str = "auto"
    weights_dir: StrPath | None = None
    workers: int | None = None
    weights_dtype: str = "float32"
    resume: bool = False
    overwrite: bool = False
    checkpoint_minutes: float = 5.0
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_choice("weights-dtype", self.weights_dtype, WEIGHTS_DTYPES)
        _number("checkpoint-minutes", self.checkpoint_minutes, 0, 10_000)
        if self.workers is not None:
            whole_number("workers", self.workers, 0)
        if self.resume and self.overwrite:
            raise ConfigError("resume and overwrite contradict each other")


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The request for a training.

    Attributes:
        inputs: folders, files and lists of images to train on, as for ``extract``.
        output: the folder for checkpoints, weights and log.
        settings: settings that the result depends on.
        validation: folders, files and lists of images to validate on; empty for none.
        run: settings of the run.
    """

    inputs: tuple[str, ...]
    output: Path
    settings: TrainSettings
    validation: tuple[str, ...] = ()
    run: TrainRun = field(default_factory=TrainRun)

    def __post_init__(self) -> None:
        if self.validation and self.settings.data.val_fraction:
            raise ConfigError(
                "val and val-fraction: validation images are either given or held out, not both"
            )


def _number(name: str, value: Any, least: float, most: float) -> float:
    """Checks the range of a value and converts it to float, so that 0 and 0.0 are the same setting."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; allowed: {least:g} to {most:g}")
    return float(value)
