"""The options of an extraction, as flat names and values, and the request made from them."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from sppfeat.config.distribution import ENGINES, Rank, RayOptions, RunOptions, parse_shard
from sppfeat.config.regions import MULTIVIEW_SCALES
from sppfeat.config.request import BackboneChoice, BoxChoice, DescriptorChoice, Request
from sppfeat.config.specs import DEFAULT_BACKBONE, DEFAULT_BOX_SIZE, DEFAULT_SIZE, InputSpec
from sppfeat.config.values import StrPath, check_choice
from sppfeat.errors import ConfigError

__all__ = ["make_request"]

_T = TypeVar("_T")

_BOX_OPTIONS = {
    "box_format": "box_format",
    "box_coords": "coords",
    "box_units": "units",
    "box_origin": "origin",
    "box_ends": "ends",
    "box_order": "order",
}
"""The options about box files, with the names that they have in :class:`BoxChoice`."""

_BOX_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys((*_BOX_OPTIONS, "scales")),
    "margin": BoxChoice.margin,
    "drop_duplicates": False,
    "projection": BoxChoice.projection,
}
_RAY_OPTIONS = {"ray_address": "address"} | {
    name: name for name in ("actors", "gpus_per_actor", "cpus_per_actor", "merge")
}


def _names(kind: type[Any], *others: str) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - set(others)


_OPTIONS = {
    *_names(Request, "inputs", "output", "input", "descriptor", "run", "shard_bytes", "ray"),
    *_names(BackboneChoice, "name"),
    *_names(InputSpec, "min_side"),
    *_names(DescriptorChoice, "nonfinite"),
    *_names(RunOptions, "local_rank", "n_local"),
    *_BOX_DEFAULTS,
    *_RAY_OPTIONS,
    *("allow_nonfinite", "engine", "shard_size"),
}
"""Names of all options of :func:`make_request`."""


def make_request(inputs: StrPath | Sequence[StrPath], output: StrPath, **options: Any) -> Request:
    """Make a request from options with the names of the command line, such as ``levels`` and ``box_format``.

    Args:
        inputs: the inputs.
        output: the feature file.
        **options: options by name; those that are left out, or None, have the defaults of the command line.

    Raises:
        ConfigError: there is no option of that name, a value is not allowed, or options exclude each other.
    """
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ConfigError(f"no such option: {', '.join(unknown)}; allowed: {', '.join(sorted(_OPTIONS))}")
    options = {name: value for name, value in options.items() if value is not None}
    rank = options.get("shard")
    if isinstance(rank, str):
        rank = parse_shard(rank)
    run = _settings(
        RunOptions, options, batch_size=_number(options, "batch_size"), workers=_number(options, "workers")
    )
    if isinstance(rank, Rank):
        run = dataclasses.replace(run, local_rank=rank.local_index, n_local=rank.n_local)
    normalize_from, scratch = options.get("normalize_from"), options.get("scratch")
    return _settings(
        Request,
        options,
        inputs=tuple(map(os.fspath, [inputs] if isinstance(inputs, str | os.PathLike) else inputs)),
        output=Path(output),
        backbone=_settings(
            BackboneChoice,
            options,
            name=options.get("backbone", DEFAULT_BACKBONE),
            layers=tuple(options.get("layers", ())),
        ),
        input=_settings(InputSpec, options, **_size(options)),
        descriptor=_settings(
            DescriptorChoice,
            options,
            nonfinite="keep" if options.get("allow_nonfinite") else "fail",
            normalize_from=None if normalize_from is None else Path(normalize_from),
        ),
        boxes=_boxes(options),
        run=run,
        shard=rank.shard if isinstance(rank, Rank) else rank,
        shard_bytes=options.get("shard_size"),
        scratch=None if scratch is None else Path(scratch),
        ray=_ray(options),
    )


def _settings(kind: type[_T], options: dict[str, Any], **others: Any) -> _T:
    """Make settings from the options that have the names of its fields, and from ``others``."""
    names = _names(kind) & options.keys() - others.keys()
    return kind(**{name: options[name] for name in names}, **others)


def _number(options: dict[str, Any], name: str) -> int | None:
    value: int | None = None if options.get(name) == "auto" else options.get(name)
    return value


def _size(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``size`` or ``scales`` of the network input, as given or by default for images or boxes."""
    size, scales, boxes = options.get("size"), options.get("scales"), options.get("boxes")
    if size is not None and scales:
        raise ConfigError("--size and --scales are both given; allowed: one of them")
    if scales:
        return {"scales": tuple(scales)}
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
            raise ConfigError(f"--{given[0].replace('_', '-')} is about boxes, but there are none: --boxes")
        return None
    boxes, origin = os.fspath(boxes), options.get("box_origin")
    choice = _settings(
        BoxChoice,
        {field: options.get(name) for name, field in _BOX_OPTIONS.items()},
        boxes=boxes,
        origin=None if origin is None else int(origin),
        **{
            name: options.get(name, _BOX_DEFAULTS[name])
            for name in ("projection", "margin", "drop_duplicates")
        },
    )
    of_files = [name for name in given if name.startswith("box_")]
    if of_files and not choice.is_file:
        raise ConfigError(f"--{of_files[0].replace('_', '-')} is about box files, not about {boxes!r}")
    if boxes == "multiview" and options.get("flip"):
        raise ConfigError("multiview has the mirror image of each view as a row of its own: leave out --flip")
    return choice


def _ray(options: dict[str, Any]) -> RayOptions | None:
    engine = check_choice("engine", options.get("engine", ENGINES[0]), ENGINES)
    given = {
        name: options[name]
        for name, field in _RAY_OPTIONS.items()
        if name in options and options[name] != getattr(RayOptions, field)
    }
    if engine == "ray":
        return RayOptions(**{_RAY_OPTIONS[name]: value for name, value in given.items()})
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags}: of --engine ray, and the engine is {engine}")
    return None
