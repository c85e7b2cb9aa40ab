"""Checked settings of the backbone, the input, the descriptor and the reduction."""

import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sppfeat.config.values import check_choice, check_fields, set_fields, set_numbers, whole_number
from sppfeat.errors import ConfigError

__all__ = [
    "COMPACT_NAME",
    "DEFAULT_BACKBONE",
    "DEFAULT_BOX_SIZE",
    "DEFAULT_LEVELS",
    "DEFAULT_SIZE",
    "MAX_ROUND_TO",
    "NORMALIZATIONS",
    "REDUCED_NORMALIZATIONS",
    "WINDOWS",
    "BackboneSpec",
    "DescriptorSpec",
    "InputSpec",
    "ReductionSpec",
    "parse_levels",
    "parse_normalize",
]

WINDOWS = ("adaptive", "sliding")
NORMALIZATIONS = ("none", "l2", "power")
REDUCED_NORMALIZATIONS = ("none", "l2")

COMPACT_NAME = "spp_s16"  # our own network, see sppfeat.networks.compact
DEFAULT_BACKBONE = COMPACT_NAME
DEFAULT_LEVELS = (1, 2, 4)
DEFAULT_SIZE = 224
DEFAULT_BOX_SIZE = 688  # the single scale of the paper's detection, section 4.2
MAX_ROUND_TO = 1024  # pixels: coarser steps leave few aspect ratios
_MAX_LEVEL = 64  # 64 x 64 bins of 2048 channels are 32 MB per descriptor: more is a typo
_MAX_REDUCTION_SEED = 2**32 - 1  # of scikit-learn
_MAX_SIDE = 65_535  # the largest side that JPEG can hold


def parse_levels(levels: str | Iterable[int]) -> tuple[int, ...]:
    """Parse a pyramid, of distinct levels from 1 to 64, from ``"1,2,4"`` or from integers.

    Example:
        >>> parse_levels("1,2,4")
        (1, 2, 4)
    """
    try:
        parts = levels.split(",") if isinstance(levels, str) else list(levels)
        parsed = tuple(_level(part) for part in parts)
    except (TypeError, ValueError) as error:
        one = f", or ({levels},)" if isinstance(levels, int) else ""
        raise ConfigError(f"levels are {levels!r}; allowed: whole numbers such as 1,2,4{one}") from error
    if not parsed or any(not 1 <= n <= _MAX_LEVEL for n in parsed):
        raise ConfigError(f"levels are {levels!r}; allowed: one or more numbers from 1 to {_MAX_LEVEL}")
    if len(set(parsed)) != len(parsed):
        raise ConfigError(f"levels are {levels!r}; each level can be given once")
    return parsed


def parse_normalize(normalize: str) -> tuple[str, float | None]:
    """Parse a normalization into its method and the mean norm of ``meannorm:NORM``, or None.

    Example:
        >>> parse_normalize("l2"), parse_normalize("meannorm:20")
        (('l2', None), ('meannorm', 20.0))
    """
    if normalize in NORMALIZATIONS:
        return normalize, None
    method, _, text = normalize.partition(":") if isinstance(normalize, str) else ("", "", "")
    try:
        norm = float(text)
    except ValueError:
        norm = math.nan
    if method != "meannorm" or not 0 < norm < math.inf:
        allowed = f"{', '.join(NORMALIZATIONS)}, meannorm:NORM such as meannorm:20"
        raise ConfigError(f"normalize is {normalize!r}; allowed: {allowed}")
    return method, norm


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """The network and the layers that features are taken from.

    Attributes:
        name: name of the model in torchvision, or ``module:...`` for the user's own network.
        weights: kind of weights: a torchvision weight name, ``file``, ``none`` or ``module``.
        weights_sha256: SHA-256 of the weight file or, without one, of the names and values of all parameters.
        layers: names of graph nodes, in the order of their blocks in the descriptor.
        mean, std: mean and standard deviation of the input, for values in 0..1, in RGB order.
        interpolation: Pillow filter for resizing.
        seed: seed of the initial values if ``weights`` is ``none``; None otherwise.
        head: last fully connected layer after the pooling, or None.
    """

    name: str
    weights: str
    weights_sha256: str
    layers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    seed: int | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        mean, std = _three_numbers("mean", self.mean), _three_numbers("std", self.std)
        set_fields(self, layers=_layer_names(self.layers), mean=mean, std=std)
        if min(self.std) <= 0:
            raise ConfigError(f"std is {list(self.std)}; allowed: numbers above 0")
        for name in ("name", "weights", "weights_sha256"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed: a text")
        check_fields(self, "interpolation")
        set_numbers(self, seed=(-(2**63), 2**64 - 1))
        if self.head is not None:
            check_fields(self, "head")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The conversion of an image to the network's input.

    Attributes:
        size: short side in pixels; None for the image's own size, and with ``scales``.
        scales: several short sides in pixels, ascending; each box is pooled from one of them.
        max_pixels: upper limit on height x width.
        min_side: lower limit on the short side in pixels: the smallest that the backbone accepts.
        round_to: both sides are rounded to multiples of this number of pixels; 1 leaves them as they are.
        decode: ``exact``, or ``fast`` to decode JPEGs at 1/2, 1/4 or 1/8 of their size, but never below the size of
            the network input.
        flip: average with the descriptor of the mirror image.
    """

    size: int | None = DEFAULT_SIZE
    scales: tuple[int, ...] = ()
    max_pixels: int = 4_000_000
    min_side: int = 1
    round_to: int = 1
    exif: str = "apply"
    decode: str = "exact"
    flip: bool = False

    def __post_init__(self) -> None:
        if self.scales:
            sides = {whole_number("scales", side, 1, _MAX_SIDE, " pixels") for side in self.scales}
            set_fields(self, scales=tuple(sorted(sides)), size=None)
        if self.size is not None:
            set_numbers(self, size=(1, _MAX_SIDE, " pixels, or native"))
        set_numbers(self, max_pixels=(1,), min_side=(1,), round_to=(1, MAX_ROUND_TO, " pixels"))
        check_fields(self, "exif", "decode")
        if not isinstance(self.flip, bool):
            raise ConfigError(f"flip is {self.flip!r}; allowed: True, False")

    @property
    def short_sides(self) -> tuple[int | None, ...]:
        """Short side of the network input at each scale, in pixels; None for the image's own size."""
        return self.scales or (self.size,)


@dataclass(frozen=True, kw_only=True)
class DescriptorSpec:
    """The pooling of a feature map into a descriptor, and the form in which it is stored.

    Attributes:
        levels: the pyramid.
        normalize: ``none``, ``l2``, ``power`` or ``meannorm:NORM``.
        norm_factors: factor of ``meannorm`` for each layer, taken from another file; None to estimate them from the
            images of the run.
        nonfinite: ``fail`` to record an image as failed if its descriptor holds NaN, infinities or values beyond the
            range of ``dtype``; ``keep`` to store them.
    """

    levels: tuple[int, ...] = DEFAULT_LEVELS
    pool: str = "max"
    normalize: str = "none"
    norm_factors: tuple[float, ...] | None = None
    dtype: str = "float32"
    nonfinite: str = "fail"

    def __post_init__(self) -> None:
        set_fields(self, levels=parse_levels(self.levels))
        check_fields(self, "pool", "dtype", "nonfinite")
        method, norm = parse_normalize(self.normalize)
        if norm is not None:
            set_fields(self, normalize=f"{method}:{norm:.17g}")
        if self.norm_factors is not None:
            if norm is None:
                raise ConfigError(f"normalize is {self.normalize!r}; factors of the mean norm need meannorm")
            factors = tuple(float(factor) for factor in self.norm_factors)
            if not factors or not all(0 < factor < math.inf for factor in factors):
                raise ConfigError(f"factors of the mean norm are {list(factors)}; allowed: numbers above 0")
            set_fields(self, norm_factors=factors)

    @property
    def n_bins(self) -> int:
        """Number of bins in the whole pyramid."""
        return sum(n * n for n in self.levels)

    @property
    def mean_norm(self) -> float | None:
        """The target mean l2 norm of ``meannorm``; None for any other method."""
        return parse_normalize(self.normalize)[1]


@dataclass(frozen=True, kw_only=True)
class ReductionSpec:
    """The reduction of descriptors to fewer dimensions.

    Attributes:
        method: ``pca``, principal components, or ``random``, a Gaussian random projection.
        components: the dimension of the reduced descriptors.
        whiten: bring every component to variance 1; only with ``pca``.
        layers, levels: columns to reduce; None for all.
        fit_rows: conditions that select the rows to fit on; empty for all rows that have a descriptor.
    """

    method: str = "pca"
    components: int = 256
    whiten: bool = False
    normalize: str = "none"
    seed: int = 0
    layers: tuple[str, ...] | None = None
    levels: tuple[int, ...] | None = None
    fit_rows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "method")
        check_choice("normalize", self.normalize, REDUCED_NORMALIZATIONS)
        set_numbers(self, components=(1,), seed=(0, _MAX_REDUCTION_SEED))
        if not isinstance(self.whiten, bool):
            raise ConfigError(f"whiten is {self.whiten!r}; allowed: True, False")
        if self.levels is not None:
            set_fields(self, levels=parse_levels(self.levels))
        for name in ("layers", "fit_rows"):
            texts = getattr(self, name)
            if texts is not None and not all(isinstance(text, str) for text in texts):
                raise ConfigError(f"{name} are {texts!r}; allowed: texts")
        if self.method == "random" and self.whiten:
            raise ConfigError("--whiten needs --method pca; a random projection does not know the variance")
        if self.method == "random" and self.fit_rows:
            raise ConfigError("--fit-rows needs --method pca; a random projection is not fitted")


def _level(part: Any) -> int:
    if isinstance(part, bool) or (isinstance(part, str) and not re.fullmatch(r" *[0-9]+ *", part)):
        raise ValueError(f"{part!r} is not a whole number")
    return int(part) if isinstance(part, str) else operator.index(part)


def _layer_names(values: Any) -> tuple[str, ...]:
    listed = [] if isinstance(values, str) else list(values)
    if not listed or len(set(listed)) != len(listed) or not all(isinstance(v, str) and v for v in listed):
        raise ConfigError(f"layers are {values!r}; allowed: one or more names, each once")
    return tuple(listed)


def _three_numbers(name: str, values: Any) -> tuple[float, ...]:
    """Return three floats: 1 and 1.0 are the same setting and must have the same fingerprint."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ConfigError(f"{name} is {values!r}; allowed: three numbers, for R, G and B in 0..1")
    return numbers
