"""The options of an extraction, as flat names and values, and the request made from them."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sppfeat.config.distribution import Rank, RayOptions, RunOptions, parse_shard
from sppfeat.config.regions import MULTIVIEW_SCALES
from sppfeat.config.request import BackboneChoice, BoxChoice, DescriptorChoice, Request
from sppfeat.config.specs import DEFAULT_BACKBONE, DEFAULT_BOX_SIZE, DEFAULT_SIZE, InputSpec
from sppfeat.config.values import CHOICES, StrPath, check_choice
from sppfeat.errors import ConfigError

__all__ = ["make_request", "settings_from"]

_T = TypeVar("_T")


def _names(kind: type[Any], *others: str) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - set(others)


_BOX_DEFAULTS: dict[str, Any] = {
    **{field.name: field.default for field in dataclasses.fields(BoxChoice) if field.name != "boxes"},
    "scales": None,
}
_RAY_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(RayOptions)}

_OPTIONS = {
    *_names(Request, "inputs", "output", "input", "descriptor", "run", "shard_bytes", "ray"),
    *_names(BackboneChoice, "name"),
    *_names(InputSpec, "min_side"),
    *_names(DescriptorChoice, "nonfinite"),
    *_names(RunOptions, "local_rank", "n_local"),
    *_BOX_DEFAULTS,
    *_RAY_DEFAULTS,
    *("allow_nonfinite", "engine", "shard_size"),
}
"""Names of all options of :func:`make_request`."""

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "layers": tuple,
    "scales": tuple,
    "boxes": os.fspath,
    "box_origin": int,
    "normalize_from": Path,
    "scratch": Path,
}


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
        shard_bytes=options.get("shard_size"),
        ray=_ray(options),
    )


def settings_from(kind: type[_T], options: dict[str, Any], **others: Any) -> _T:
    """Make settings from the options that have the names of fields of a dataclass, and from ``others``."""
    names = _names(kind) & options.keys() - others.keys()
    return kind(**{name: options[name] for name in names}, **others)


def _size(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``size`` or ``scales`` of the network input, as given or by default for images or boxes."""
    size, scales, boxes = options.get("size"), options.get("scales"), options.get("boxes")
    if size is not None and scales:
        raise ConfigError("--size and --scales are both given; allowed: one of them")
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
            raise ConfigError(f"--{given[0].replace('_', '-')} is about boxes, but there are none: --boxes")
        return None
    choice = settings_from(BoxChoice, options)
    of_files = [name for name in given if name.startswith("box_")]
    if of_files and not choice.is_file:
        raise ConfigError(f"--{of_files[0].replace('_', '-')} is about box files, not about {boxes!r}")
    if boxes == "multiview" and options.get("flip"):
        raise ConfigError("multiview has the mirror image of each view as a row of its own: leave out --flip")
    return choice


def _ray(options: dict[str, Any]) -> RayOptions | None:
    engine = check_choice("engine", options.get("engine", "local"), CHOICES["engine"])
    given = [name for name, default in _RAY_DEFAULTS.items() if options.get(name, default) != default]
    if engine == "ray":
        return settings_from(RayOptions, options)
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags}: of --engine ray, and the engine is {engine}")
    return None
