"""The request for an extraction, made from flat options before any file is opened."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sppfeat.config.distribution import Rank, RayOptions, RunOptions, ShardChoice, parse_shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.regions import BOX_STYLES, MULTIVIEW_SCALES, BoxConvention, RegionSpec
from sppfeat.config.specs import (
    DEFAULT_BACKBONE,
    DEFAULT_BOX_SIZE,
    DEFAULT_LEVELS,
    DEFAULT_SIZE,
    DescriptorSpec,
    InputSpec,
)
from sppfeat.config.values import CHOICES, StrPath, check_choice, check_encoding, check_fields
from sppfeat.errors import ConfigError

__all__ = ["BackboneChoice", "BoxChoice", "DescriptorChoice", "Request", "make_request", "settings_from"]


@dataclass(frozen=True, kw_only=True)
class BackboneChoice:
    """The backbone that a user asks for; the fields are those of :func:`sppfeat.networks.backbones.load_backbone`."""

    name: str = DEFAULT_BACKBONE
    weights: str = "DEFAULT"
    weights_dir: StrPath | None = None
    layers: tuple[str, ...] = ()
    seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    head: str | None = None


@dataclass(frozen=True, kw_only=True)
class DescriptorChoice:
    """The descriptor that a user asks for; see :class:`sppfeat.config.specs.DescriptorSpec`.

    Attributes:
        levels: the pyramid; None for the default, or for the level that a head expects.
        normalize_from: a feature file from which to take the ``meannorm`` normalization and its factors.
    """

    levels: tuple[int, ...] | None = None
    pool: str = DescriptorSpec.pool
    normalize: str = DescriptorSpec.normalize
    dtype: str = DescriptorSpec.dtype
    nonfinite: str = DescriptorSpec.nonfinite
    normalize_from: Path | None = None

    def spec(self, *, head: str | None = None, head_level: int | None = None) -> DescriptorSpec:
        """Return the checked settings, with the one level that the head after the pooling expects, if there is one."""
        levels = self.levels or DEFAULT_LEVELS
        if head_level is not None:
            if self.levels not in (None, (head_level,)):
                raise ConfigError(
                    f"levels are {list(levels)}; allowed with --head {head}, whose layers expect it: {head_level}"
                )
            if self.pool != "max":
                raise ConfigError(f"pool is {self.pool!r}; allowed with --head {head}: max")
            levels = (head_level,)
        return settings_from(DescriptorSpec, vars(self), levels=levels)


@dataclass(frozen=True, kw_only=True)
class BoxChoice:
    """The boxes that a user asks for; see :class:`sppfeat.config.regions.RegionSpec` and its convention.

    Attributes:
        boxes: a box file, ``grid:...`` or ``multiview``.
        box_format: format of the file; None to recognize it.
        box_label: column or region attribute that names the class; None for the usual ones.
        box_names: source of the image's name, ``inside`` an annotation or the name of its ``file``; None for the file's
            name if an input has it.
        box_images, box_categories: files of COCO instances that name the ids of images and categories of results.
        box_style: one of :data:`sppfeat.config.regions.BOX_STYLES`; None for the convention of the format.
        box_coords, box_units, box_origin, box_ends, box_order: None for the convention of the style or format.
    """

    boxes: str
    box_format: str | None = None
    box_label: str | None = None
    box_names: str | None = None
    box_images: str | None = None
    box_categories: str | None = None
    box_style: str | None = None
    box_coords: str | None = None
    box_units: str | None = None
    box_origin: int | None = None
    box_ends: str | None = None
    box_order: str | None = None
    margin: float = RegionSpec.margin
    drop_duplicates: bool = RegionSpec.drop_duplicates
    projection: str = RegionSpec.projection

    def __post_init__(self) -> None:
        if self.box_style is not None:
            check_choice("box-style", self.box_style, tuple(BOX_STYLES))

    def convention(self, default: BoxConvention) -> BoxConvention:
        """Return the convention of the box file: single options override the style, which overrides ``default``."""
        return (BOX_STYLES[self.box_style] if self.box_style else default).replace(
            coords=self.box_coords,
            units=self.box_units,
            origin=self.box_origin,
            ends=self.box_ends,
            order=self.box_order,
        )

    @property
    def is_file(self) -> bool:
        """True if the boxes come from a file."""
        return self.boxes != "multiview" and not self.boxes.startswith("grid:")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that a user asks of an extraction; ``sppfeat extract --help-all`` describes the switches.

    Attributes:
        inputs, labels, exclude, include: see :func:`sppfeat.inputs.list_images`.
        encoding: of text tables, lists and box files without a byte order mark; None for UTF-8.
        backbone, input, descriptor, precision, boxes: settings that a descriptor depends on.
        dry_run: plan only; write nothing, take no lock.
        shard: extract only this part of the plan, into a file of its own.
        shard_note: a note for the user on how the shard was chosen, or empty.
        shared: write the shard's rows into one output that other processes fill as well.
        shard_bytes: the most bytes of descriptors per file; shards are written one after the other, each into its own
            file; see :mod:`sppfeat.extraction.shard_files`.
        scratch: an existing folder for downloaded inputs; None for the system's temporary folder.
        ray: options of the Ray cluster to run on; None to run in this process.
    """

    inputs: tuple[str, ...]
    output: Path
    labels: str = "auto"
    encoding: str | None = None
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    backbone: BackboneChoice = field(default_factory=BackboneChoice)
    input: InputSpec = field(default_factory=InputSpec)
    descriptor: DescriptorChoice = field(default_factory=DescriptorChoice)
    boxes: BoxChoice | None = None
    precision: str = ExtractConfig.precision
    run: RunOptions = field(default_factory=RunOptions)
    overwrite: bool = False
    retry_failed: bool = False
    update: bool = False
    update_changed: bool = False
    add_new: bool = False
    fail_fast: bool = False
    dry_run: bool = False
    shard: ShardChoice | None = None
    shard_note: str = ""
    shared: bool = False
    headers: str = "auto"
    shard_bytes: int | None = None
    scratch: Path | None = None
    ray: RayOptions | None = None

    def __post_init__(self) -> None:
        check_fields(self, "headers")
        check_encoding(self.encoding)
        is_shard, is_parts = self.shard is not None, self.shard_bytes is not None
        adding = "--update" if self.update else "--add-new"
        refusals = {
            "--overwrite starts over: leave out --update, --update-changed, --add-new and --retry-failed": (
                self.overwrite and (self.retry_failed or self.adds_new or self.update_changed)
            ),
            f"scratch is {str(self.scratch)!r}; allowed: an existing folder": (
                self.scratch is not None and not os.path.isdir(self.scratch)
            ),
            "--shared needs --shard: several processes fill one file": (self.shared and not is_shard),
            "--overwrite and --shared exclude each other: each process would replace the rows of the others; remove "
            "the file first": self.shared and self.overwrite,
            f"{adding} does not work with --shard: existing shards cannot grow; extract new images into another file, "
            "or use --update-changed to rerun changed images": is_shard and self.adds_new,
            f"shard-size is {self.shard_bytes} bytes; allowed: 1 or more": (
                self.shard_bytes is not None and self.shard_bytes < 1
            ),
            "--shard-size writes all shards in turn: leave out --shard": is_parts and is_shard,
            f"{adding} does not work with --shard-size: existing shards cannot grow; --update-changed reruns changed "
            "images": is_parts and self.adds_new,
        }
        if self.ray is not None:
            own_parts = "the engine divides the work into its own parts"
            refusals |= {
                "--overwrite does not work with --engine ray: remove the output and its folder of parts, or choose "
                "another output": self.overwrite,
                f"{adding} does not work with --engine ray: {own_parts}; --update-changed reruns changed images": (
                    self.adds_new
                ),
                f"--shard does not work with --engine ray: {own_parts}": is_shard,
                f"--shard-size does not work with --engine ray: {own_parts}": is_parts,
                f"device is {self.run.device!r}; allowed with --engine ray, which assigns devices: auto, cpu, cuda": (
                    self.run.device not in ("auto", "cpu", "cuda")
                ),
            }
        for refusal, is_met in refusals.items():
            if is_met:
                raise ConfigError(refusal)

    @property
    def adds_new(self) -> bool:
        """True to add inputs that an existing output does not have."""
        return self.update or self.add_new

    @property
    def runs_changed(self) -> bool:
        """True to rerun images whose files have changed; a replacement that continues does, too."""
        return self.update or self.update_changed or self.overwrite

    @property
    def boxes_path(self) -> str:
        """Absolute path of the box file; empty without one."""
        return os.path.abspath(self.boxes.boxes) if self.boxes and self.boxes.is_file else ""


_T = TypeVar("_T")


def _defaults(kind: type[Any], *others: str) -> dict[str, Any]:
    """Defaults of the fields of a settings dataclass, except for some."""
    return {field.name: field.default for field in dataclasses.fields(kind) if field.name not in others}


_BOX_DEFAULTS = {**_defaults(BoxChoice, "boxes"), "scales": None}
_RAY_DEFAULTS = _defaults(RayOptions)

_OPTIONS = {
    *_defaults(Request, "inputs", "output", "input", "descriptor", "run", "shard_note", "shard_bytes", "ray"),
    *_defaults(BackboneChoice, "name"),
    *_defaults(InputSpec, "min_side"),
    *_defaults(DescriptorChoice, "nonfinite"),
    *_defaults(RunOptions, "local_rank", "n_local"),
    *_BOX_DEFAULTS,
    *_RAY_DEFAULTS,
    *("allow_nonfinite", "engine", "shard_size"),
}
"""Names of all options of :func:`make_request`."""

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "layers": tuple,
    "exclude": lambda given: (given,) if isinstance(given, str) else tuple(given),
    "include": lambda given: (given,) if isinstance(given, str) else tuple(given),
    "scales": tuple,
    "boxes": os.fspath,
    "box_images": os.fspath,
    "box_categories": os.fspath,
    "box_origin": int,
    "normalize_from": Path,
    "scratch": Path,
}


def make_request(inputs: StrPath | Sequence[StrPath], output: StrPath, **options: Any) -> Request:
    """Make a request from options with the names of the command line, such as ``levels`` and ``box_format``.

    Options that are left out, or None, have the defaults of the command line.

    Raises:
        ConfigError: an option is unknown, a value is not allowed, or options exclude each other.
    """
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ConfigError(f"unknown option: {', '.join(unknown)}; allowed: {', '.join(sorted(_OPTIONS))}")
    options = {
        name: _CONVERSIONS[name](value) if name in _CONVERSIONS else value
        for name, value in options.items()
        if value is not None and not (name in ("batch_size", "workers") and value == "auto")
    }
    shard = options.get("shard")
    rank = parse_shard(shard) if isinstance(shard, str) else shard
    place = {"local_rank": rank.local_index, "n_local": rank.n_local} if isinstance(rank, Rank) else {}
    return settings_from(
        Request,
        options,
        inputs=tuple(map(os.fspath, [inputs] if isinstance(inputs, str | os.PathLike) else inputs)),
        output=Path(output),
        backbone=settings_from(BackboneChoice, options, name=options.get("backbone", DEFAULT_BACKBONE)),
        input=settings_from(InputSpec, options, **_size(options)),
        descriptor=settings_from(
            DescriptorChoice, options, nonfinite="keep" if options.get("allow_nonfinite") else "fail"
        ),
        boxes=_boxes(options),
        run=settings_from(RunOptions, options, **place),
        shard=rank.shard if isinstance(rank, Rank) else rank,
        shard_note=rank.note if isinstance(rank, Rank) else "",
        shard_bytes=options.get("shard_size"),
        ray=_ray(options),
    )


def settings_from(kind: type[_T], options: dict[str, Any], **others: Any) -> _T:
    """Make settings from the options that have the names of fields of a dataclass, and from ``others``."""
    names = _defaults(kind).keys() & options.keys() - others.keys()
    return kind(**{name: options[name] for name in names}, **others)


def _size(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``size`` or ``scales`` of the network input, given or by default."""
    size, scales, boxes = options.get("size"), options.get("scales"), options.get("boxes")
    if size is not None and scales:
        raise ConfigError("--size and --scales exclude each other")
    if scales:
        return {"scales": scales}
    if size is None and boxes == "multiview":
        return {"scales": MULTIVIEW_SCALES}
    if size is None:
        return {"size": DEFAULT_SIZE if boxes is None else DEFAULT_BOX_SIZE}
    return {"size": None if size == "native" else size}


def _boxes(options: dict[str, Any]) -> BoxChoice | None:
    boxes = options.get("boxes")
    given = [name for name, value in _BOX_DEFAULTS.items() if options.get(name, value) not in (value, ())]
    if boxes is None:
        if given:
            raise ConfigError(f"--{given[0].replace('_', '-')} needs boxes: add --boxes")
        return None
    choice = settings_from(BoxChoice, options)
    of_files = [name for name in given if name.startswith("box_")]
    if of_files and not choice.is_file:
        raise ConfigError(f"--{of_files[0].replace('_', '-')} needs a box file, but boxes is {boxes!r}")
    if boxes == "multiview" and options.get("flip"):
        raise ConfigError("multiview has a row for each mirror image: leave out --flip")
    return choice


def _ray(options: dict[str, Any]) -> RayOptions | None:
    engine = check_choice("engine", options.get("engine", "local"), CHOICES["engine"])
    given = [name for name, default in _RAY_DEFAULTS.items() if options.get(name, default) != default]
    if engine == "ray":
        return settings_from(RayOptions, options)
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags}: add --engine ray (the engine is {engine})")
    return None
