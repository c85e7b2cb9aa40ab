"""What a run is told: settings that check themselves, and a fingerprint of those that shape a descriptor."""

import dataclasses
import hashlib
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sppfeat.errors import ConfigError

__all__ = [
    "DEFAULT_BACKBONE",
    "DEFAULT_LEVELS",
    "DEFAULT_MAX_PIXELS",
    "DEFAULT_SIZE",
    "DTYPES",
    "EXIF_MODES",
    "INTERPOLATIONS",
    "NORMALIZATIONS",
    "POOL_MODES",
    "PRECISIONS",
    "WINDOWS",
    "BackboneSpec",
    "DescriptorSpec",
    "ExtractConfig",
    "InputSpec",
    "RunOptions",
    "check_choice",
    "config_differences",
    "parse_device",
    "parse_levels",
]

POOL_MODES = ("max", "avg")
WINDOWS = ("adaptive", "sliding")
NORMALIZATIONS = ("none", "l2", "power")
DTYPES = ("float32", "float16")
EXIF_MODES = ("apply", "ignore")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

DEFAULT_BACKBONE = "resnet50"
DEFAULT_LEVELS = (1, 2, 4)
DEFAULT_SIZE = 224
DEFAULT_MAX_PIXELS = 4_000_000
_MAX_LEVEL = 64  # 64 x 64 bins of 2048 channels are 32 MB per descriptor: more is a typing error
_MAX_SIDE = 65_535  # the largest side that JPEG can hold

# In the recorded settings a field is named as its option is.
_JSON_NAMES = {"name": "backbone"}


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ConfigError: it is not; the message names the setting, the value and the choices.
    """
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(choices)}")
    return value


def parse_levels(levels: str | Iterable[int]) -> tuple[int, ...]:
    """Return the pyramid as a tuple, from ``"1,2,4"`` or from integers.

    Raises:
        ConfigError: no level, one twice, or one outside 1..64.

    Example:
        >>> parse_levels("1,2,4")
        (1, 2, 4)
    """
    try:
        parts = levels.split(",") if isinstance(levels, str) else list(levels)
        parsed = tuple(_level(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"levels are {levels!r}; allowed: whole numbers such as 1,2,4") from error
    if not parsed or any(not 1 <= n <= _MAX_LEVEL for n in parsed):
        raise ConfigError(f"levels are {levels!r}; allowed: one or more numbers from 1 to {_MAX_LEVEL}")
    if len(set(parsed)) != len(parsed):
        raise ConfigError(f"levels are {levels!r}; each level can be given once")
    return parsed


def parse_device(device: str) -> str:
    """Return ``device`` if it is ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ConfigError: it is none of these.
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", device):
        raise ConfigError(f"device is {device!r}; allowed: auto, cpu, cuda, cuda:N, mps")
    return device


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Which network, and how far up.

    Attributes:
        name: torchvision's name of the model, or ``module:...`` for a network of the user's own.
        weights: a torchvision weight name, ``file``, ``none`` or ``module``: what kind of weights.
        weights_sha256: of the weight file; of names and values of all parameters where there is no file.
        layers: node names, in the order of their blocks in the descriptor.
        mean, std: of the input, in 0..1 and RGB order.
        interpolation: Pillow filter for resizing.
        seed: of the initial values where ``weights`` is ``none``; otherwise None.
    """

    name: str
    weights: str
    weights_sha256: str
    layers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    seed: int | None = None

    def __post_init__(self) -> None:
        _set(self, layers=_names("layers", self.layers))
        _set(self, mean=_channels("mean", self.mean), std=_channels("std", self.std))
        if min(self.std) <= 0:
            raise ConfigError(f"std is {list(self.std)}; allowed: numbers above 0")
        for name in ("name", "weights", "weights_sha256"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed: a text")
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if self.seed is not None:
            _set(self, seed=_whole("seed", self.seed, -(2**63), 2**64 - 1))


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How an image becomes the network's input.

    Attributes:
        size: short side in pixels, or None for the image's own size.
        max_pixels: upper limit of height x width.
        min_side: lower limit of the short side: the smallest the backbone can take.
        exif: ``apply`` or ``ignore`` the EXIF orientation.
        flip: average with the mirror image's descriptor.
    """

    size: int | None = DEFAULT_SIZE
    max_pixels: int = DEFAULT_MAX_PIXELS
    min_side: int = 1
    exif: str = "apply"
    flip: bool = False

    def __post_init__(self) -> None:
        if self.size is not None:
            _set(self, size=_whole("size", self.size, 1, _MAX_SIDE, unit=" pixels, or native"))
        _set(self, max_pixels=_whole("max-pixels", self.max_pixels, 1))
        _set(self, min_side=_whole("min-side", self.min_side, 1))
        check_choice("exif", self.exif, EXIF_MODES)
        if not isinstance(self.flip, bool):
            raise ConfigError(f"flip is {self.flip!r}; allowed: True, False")


@dataclass(frozen=True, kw_only=True)
class DescriptorSpec:
    """How a feature map becomes a descriptor, and how that is stored."""

    levels: tuple[int, ...] = DEFAULT_LEVELS
    pool: str = "max"
    normalize: str = "none"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _set(self, levels=parse_levels(self.levels))
        check_choice("pool", self.pool, POOL_MODES)
        check_choice("normalize", self.normalize, NORMALIZATIONS)
        check_choice("dtype", self.dtype, DTYPES)

    @property
    def n_bins(self) -> int:
        """Bins of the whole pyramid."""
        return sum(n * n for n in self.levels)


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Everything that a descriptor depends on, and nothing else; two equal ones give equal descriptors."""

    backbone: BackboneSpec
    input: InputSpec
    descriptor: DescriptorSpec
    precision: str = "fp32"

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a flat dict of JSON values; tuples are lists."""
        flat: dict[str, Any] = {}
        for part in (self.backbone, self.input, self.descriptor):
            values = dataclasses.asdict(part)
            flat.update({_JSON_NAMES.get(name, name): value for name, value in values.items()})
        flat["precision"] = self.precision
        return {name: list(v) if isinstance(v, tuple) else v for name, v in flat.items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "ExtractConfig":
        """Return the configuration that :meth:`to_dict` wrote down.

        Raises:
            ConfigError: a setting is missing, unknown or invalid.
        """
        if not isinstance(settings, Mapping):
            raise ConfigError(f"the recorded configuration is no table of settings but {settings!r}")
        rest: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
        try:
            precision = rest.pop("precision")
            parts = {}
            for name, part in (
                ("backbone", BackboneSpec),
                ("input", InputSpec),
                ("descriptor", DescriptorSpec),
            ):
                fields = [field.name for field in dataclasses.fields(part)]
                parts[name] = part(**{field: rest.pop(_JSON_NAMES.get(field, field)) for field in fields})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"the recorded configuration is incomplete or malformed: {error}") from error
        if rest:
            raise ConfigError(f"the recorded configuration has unknown settings: {', '.join(sorted(rest))}")
        return cls(precision=precision, **parts)  # type: ignore[arg-type]

    def to_json(self) -> str:
        """Return the settings as canonical JSON: sorted keys, no white space."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the work is done; nothing here changes a descriptor.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        batch_size: images per batch, or None to choose by pixels and device.
        workers: processes that decode, 0 for none (decode in this process), or None to choose.
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        parse_device(self.device)
        if self.batch_size is not None:
            _set(self, batch_size=_whole("batch-size", self.batch_size, 1, unit=", or auto"))
        if self.workers is not None:
            _set(self, workers=_whole("workers", self.workers, 0, unit=", or auto"))


def config_differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return one line per setting that differs, with both values."""
    names = sorted(set(recorded) | set(wanted))
    absent = "(not set)"
    return [
        f"{name}: the file has {recorded.get(name, absent)!r}, this command {wanted.get(name, absent)!r}"
        for name in names
        if recorded.get(name, absent) != wanted.get(name, absent)
    ]


def _set(spec: object, **values: Any) -> None:
    """Put checked values into a frozen dataclass, in the one type that they are compared and recorded in."""
    for name, value in values.items():
        object.__setattr__(spec, name, value)


def _whole(name: str, value: Any, least: int, most: int | None = None, *, unit: str = "") -> int:
    """``value`` as an int, if it is a whole number of any integer type and in range."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}{unit}")
    return number


def _names(name: str, values: Any) -> tuple[str, ...]:
    listed = [] if isinstance(values, str) else list(values)
    if not listed or len(set(listed)) != len(listed) or not all(isinstance(v, str) and v for v in listed):
        raise ConfigError(f"{name} are {values!r}; allowed: one or more names, each once")
    return tuple(listed)


def _channels(name: str, values: Any) -> tuple[float, ...]:
    """Three floats: 1 and 1.0 are the same setting and must give the same fingerprint."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ConfigError(f"{name} is {values!r}; allowed: three numbers, for R, G and B in 0..1")
    return numbers


def _level(part: Any) -> int:
    if isinstance(part, str) and re.fullmatch(r" *[0-9]+ *", part):
        return int(part)
    if isinstance(part, str | bool):
        raise ValueError(f"{part!r} is not a whole number")
    return operator.index(part)
