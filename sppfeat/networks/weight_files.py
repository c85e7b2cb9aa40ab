"""Reads the tensors of PyTorch and safetensors files; tells what other files are."""

import codecs
import contextlib
import mmap
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sppfeat.config.wording import first_few, one_line, reason_of
from sppfeat.errors import WeightsError

__all__ = ["ParameterSets", "is_weights_file", "read_tensors", "read_weights_file"]

ParameterSets = Mapping[str, Mapping[str, Tensor]]
"""The tensors of a checkpoint by name, under the keys that lead to them, such as ``""`` or ``"ema.module."``."""

_MAX_DEPTH = 4  # of nested dicts; a checkpoint may hold itself
_MAX_PICKLES = 5  # before the storages of a file in the format before torch 1.6
_SHOWN = 5
_HEAD_NBYTES = 512
_SHOWN_TEXT = 80

_ALONE = "save model.state_dict() alone"
_AGAIN = "copy or download it again"
_SAFETENSORS = b"\0{"  # at 7: the last byte of the header's length, and its JSON text
_ZIP, _PICKLE, _TORCH_PICKLE = b"PK\x03\x04", b"\x80", b"\x80\x02\x8a\x0al\xfc\x9cF"
_SIGNATURES = (
    (0, b"version https://git-lfs", "is a Git LFS pointer; 'git lfs pull' fetches the file itself"),
    (0, b"\x89HDF\r\n", "is an HDF5 file, perhaps from Keras"),
    (0, b"\x93NUMPY", "is a NumPy file"),
    (0, b"GGUF", "is a GGUF file"),
    (0, b"\x1f\x8b", "is compressed with gzip; unpack it"),
    (0, b"BZh", "is compressed with bzip2; unpack it"),
    (0, b"\xfd7zXZ", "is compressed with xz; unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed with Zstandard; unpack it"),
    (0, b"7z\xbc\xaf", "is a 7-Zip archive; unpack it"),
    (0, b"Rar!", "is a RAR archive; unpack it"),
    (257, b"ustar", "is a tar archive; unpack it"),
)
# Names in a pickle that stand for tensors and plain containers; all others are objects, which are never created.
_PLAIN_NAMES = re.compile(
    r"torch\.\w+|torch\._utils\.\w+|torch\.storage\.\w*Storage|torch\.nn\.parameter\.\w+|torch\._tensor\.\w+"
    r"|torch\.serialization\.\w+|collections\.(OrderedDict|defaultdict|Counter)|_codecs\.encode"
    r"|copy_?reg\.\w+|(builtins|__builtin__)\.(set|frozenset|list|dict|tuple|bytearray|complex|object|slice|range)"
)


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
    """Identifies a file that is not a weights file, by its first bytes and the names in its pickles."""
    n_bytes = path.stat().st_size
    if not n_bytes:
        return f"is empty; {_AGAIN}"
    for offset, magic, kind in _SIGNATURES:
        if head.startswith(magic, offset):
            return kind if ";" in kind else f"{kind}; allowed: a PyTorch or safetensors file"
    damaged = f"is damaged or cut short ({n_bytes} bytes); {_AGAIN}"
    if head[7:9] == _SAFETENSORS:
        return damaged
    if head.startswith(_ZIP):
        return _why_unreadable_zip(path) or damaged
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reason = _name_objects(content)  # type: ignore[arg-type]
    if reason is None and head.startswith(_PICKLE) and not head.startswith(_TORCH_PICKLE):
        return f"is a damaged pickle, or torch.save did not write it; {_ALONE} with torch.save"
    if reason is None and len(head) >= len(_ZIP):
        reason = _why_text(head)
    if reason is None and not head.startswith(_PICKLE):
        reason = f"is neither a PyTorch nor a safetensors file, or is cut short ({n_bytes} bytes)"
    return reason or damaged


def _why_unreadable_zip(path: Path) -> str | None:
    """The reason why torch cannot read a ZIP archive; None if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {os.path.basename(name): name for name in archive.namelist()}
            if "constants.pkl" in names or "archive_format" in names:
                return f"is a TorchScript or exported program; {_ALONE}"
            if "data.pkl" not in names:
                return "is a ZIP archive that torch.save did not write; unpack it and name the weights file in it"
            with archive.open(names["data.pkl"]) as content:
                return _name_objects(content)
    except Exception:  # of many types, on a damaged directory
        return None


def _name_objects(content: IO[bytes]) -> str | None:
    """The reason for refusing pickles with objects, which names their classes; None for pickles without any."""
    found = [name for name in dict.fromkeys(_pickled_names(content)) if not _PLAIN_NAMES.fullmatch(name)]
    found = [name for name in found if name != "torch.storage._load_from_bytes"]
    if any(name.startswith("torch.nn.modules.") for name in found):
        return f"holds a whole model, {one_line(found[0])}; {_ALONE}"
    kinds = dict.fromkeys("numpy" if name.startswith("numpy.") else name for name in found)
    return f"holds {first_few(map(one_line, kinds), 3)} objects; {_ALONE}" if kinds else None


def _pickled_names(content: IO[bytes]) -> Iterator[str]:
    """Yields the classes and functions that pickles refer to, up to where they end or are damaged."""
    memo: dict[Any, str] = {}
    texts = ["", ""]  # the texts pushed last
    with contextlib.suppress(ValueError, OverflowError, MemoryError, OSError, zipfile.BadZipFile):
        for _ in range(_MAX_PICKLES):
            last = ""  # the value pushed last, if it is a text
            for code, value, _ in pickletools.genops(content):
                if code.name in ("GLOBAL", "INST"):
                    yield str(value).replace(" ", ".")
                elif code.name == "STACK_GLOBAL":
                    yield ".".join(texts)
                if code.name == "MEMOIZE":
                    memo[len(memo)] = last
                elif code.name.endswith("PUT"):
                    memo[value] = last
                else:
                    pushed = memo.get(value) if code.name.endswith("GET") else value
                    last = pushed if isinstance(pushed, str) else ""
                    texts = [texts[-1], last] if last else texts


def _why_text(head: bytes) -> str | None:
    """Describes a file that is text, such as the error page of a server; None if it is not text."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    start = text.lstrip()
    if "<html" in text.lower() or start.lower().startswith("<!doctype html"):
        return "is an HTML page, such as a login page; download the weights file itself"
    kind = {"{": "JSON text", "[": "JSON text", "<": "XML text"}.get(start[:1], "text")
    return f"is {kind}, not weights; it begins with {' '.join(text.split())[:_SHOWN_TEXT]!r}"
