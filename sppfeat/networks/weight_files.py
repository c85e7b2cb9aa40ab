"""Reads the tensors of PyTorch and safetensors files, and explains why other files are refused."""

import codecs
import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppfeat.config.wording import first_few, one_line, reason_of
from sppfeat.errors import WeightsError

__all__ = ["ParameterSets", "is_weights_file", "read_tensors", "read_weights_file"]

ParameterSets = Mapping[str, Mapping[str, Tensor]]
"""The tensors of a checkpoint by name, under the keys that lead to them, such as ``""`` or ``"ema.module."``."""

_MAX_DEPTH = 4  # of nested dicts; a checkpoint may hold itself
_SHOWN = 5
_HEAD_NBYTES = 512
_SHOWN_TEXT = 80
_SHORTEST_TEXT = 4  # bytes; fewer may be the beginning of any file

_ALONE = "save model.state_dict() alone with torch.save"
_SAFETENSORS = b"\0{"  # at byte 7: the last byte of the header's length, and its JSON text
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # by protocol


def is_weights_file(weights: str) -> bool:
    """True if a ``--weights`` value is a file rather than the name of weights.

    Example:
        >>> is_weights_file("IMAGENET1K_V1"), is_weights_file("runs/model.pth")
        (False, True)
    """
    return os.sep in weights or Path(weights).suffix != "" or Path(weights).is_file()


def read_weights_file(path: Path) -> ParameterSets:
    """Reads the parameters of a local file: a state dict, or a checkpoint that holds one or several.

    Only tensors are read, never pickled objects. Raises WeightsError for a file without tensors.
    """
    content = read_tensors(path)
    sets = dict(_parameter_sets(content))
    if not sets:
        found = type(content).__name__
        if isinstance(content, Mapping):
            found = f"[{first_few((one_line(repr(key)) for key in content), _SHOWN)}]"
        raise WeightsError(
            f"{str(path)!r} holds no state dict: found {found}; allowed: a dict of tensors by name, at the top or "
            "under a key such as state_dict or model"
        )
    return sets


def read_tensors(path: Path) -> Any:
    """Reads a file of ``torch.save`` or safetensors with tensors, numbers, texts and containers of them.

    Raises WeightsError for other files, also for those with pickled objects, which are never executed.
    """
    shown = repr(str(path))
    try:
        if not path.is_file():
            raise WeightsError(
                f"{shown} is a folder; allowed: a weights file"
                if path.is_dir()
                else f"no weights file {shown}"
            )
        with open(path, "rb") as file:
            head = file.read(_HEAD_NBYTES)
    except OSError as error:
        raise WeightsError(f"cannot read the weights {shown}: {reason_of(error)}") from error
    try:
        if head[7:9] == _SAFETENSORS:
            return _read_safetensors(path)
        # An open file, because torch would go by the suffix of a path.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except MemoryError as error:
        raise WeightsError(f"not enough memory to read the weights {shown}") from error
    except Exception as error:  # of any type, from the unpickler or the zip reader
        raise WeightsError(f"{shown} {_why_unreadable(path, head)}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"reading {str(path)!r} needs the package safetensors: pip install 'sppfeat[safetensors]'"
        ) from error
    state: dict[str, Tensor] = load_file(path)
    return state


def _parameter_sets(content: Any, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields the tensors of each dict in a checkpoint, with the keys that lead to it."""
    if not isinstance(content, Mapping) or place.count(".") > _MAX_DEPTH:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    if tensors := {name: value for name, value in named.items() if isinstance(value, Tensor)}:
        yield place, tensors
    for name, value in named.items():
        yield from _parameter_sets(value, f"{place}{name}.")


def _why_unreadable(path: Path, head: bytes) -> str:
    """The reason why torch and safetensors cannot read a file, and the remedy."""
    with contextlib.suppress(
        Exception
    ):  # of any type: the file is not a ZIP archive of torch.save, or is damaged
        if names := torch.serialization.get_unsafe_globals_in_checkpoint(path):
            return f"holds objects ({first_few(sorted(map(one_line, names)), _SHOWN)}); {_ALONE}"
    if head.startswith(_PICKLES):
        return f"is a damaged pickle, or one of objects, which are never loaded; {_ALONE}"
    if (text := _text_of(head)) is None:
        return (
            f"is neither a PyTorch nor a safetensors file, or is cut short ({path.stat().st_size} bytes); copy or "
            "download it again"
        )
    if "<html" in text.lower():
        return "is an HTML page, such as a login page; download the weights file itself"
    if text.startswith("version https://git-lfs"):
        return "is a Git LFS pointer; 'git lfs pull' fetches the file itself"
    return f"is text, not weights; it begins with {' '.join(text.split())[:_SHOWN_TEXT]!r}"


def _text_of(head: bytes) -> str | None:
    """The first bytes of a file as text, such as the error page of a server; None if they are not text."""
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
        return None if "\0" in text or len(head) < _SHORTEST_TEXT else text
    return None
