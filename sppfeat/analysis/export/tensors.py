"""Tensor formats: PyTorch's .pt, and .safetensors, a block of rows at a time: vectors may exceed the memory."""

import json
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import VECTORS, Contents
from sppfeat.store.row_table import RowColumn, TextColumn

__all__ = ["write_pt", "write_safetensors"]

_HEADER_LIMIT = 100_000_000  # bytes; readers of safetensors refuse a longer header

# Names of number types in safetensors.
_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


class _Tensor(NamedTuple):
    """Numbers to write, in little-endian blocks of rows."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterable[npt.NDArray[Any]]

    @property
    def n_values(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def write(self, file: IO[bytes]) -> None:
        for block in self.blocks:
            file.write(block.tobytes())


def _split(contents: Contents) -> tuple[list[_Tensor], dict[str, RowColumn]]:
    """The arrays of numbers, vectors first, and the arrays of texts but ``about``, which is one text."""
    vectors = (block for _, block in contents.blocks())
    tensors = [_Tensor(VECTORS, contents.shape, contents.dtype, vectors)]
    texts = dict(contents.arrays())
    del texts["about"]
    for name, array in list(texts.items()):
        if not isinstance(array, TextColumn) and array.dtype.kind != "U":
            little = array.astype(array.dtype.newbyteorder("<"))
            tensors.append(_Tensor(name, array.shape, array.dtype, [little]))
            del texts[name]
    return tensors, texts


def _parts(texts: RowColumn) -> Iterator[list[Any]]:
    """The entries of an array of texts in parts; with two axes, each entry is a list of texts."""
    return texts.parts() if isinstance(texts, TextColumn) else iter([texts.tolist()])


def write_safetensors(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes the numbers as tensors, and each array of texts into the metadata, as a list in JSON.

    The header has a maximum length. Arrays of texts that do not fit, the longest ones, are left out.

    Source: https://github.com/huggingface/safetensors, section "Format".
    """
    tensors, texts = _split(contents)
    tensors.sort(key=lambda tensor: -tensor.dtype.itemsize)  # aligns each tensor to its type
    header: dict[str, Any] = {"__metadata__": {"about": contents.about_json()}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.n_values * tensor.dtype.itemsize
        header[tensor.name] = {
            "dtype": _TYPES[tensor.dtype.name],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    room = _HEADER_LIMIT - len(json.dumps(header)) - 8  # of padding
    for name, array in sorted(texts.items(), key=lambda text: len(text[1])):
        listed = _json_list(array, room - len(name))
        if listed is None:
            contents.left_out.append(name)
        else:
            header["__metadata__"][name] = listed
            room -= _json_nbytes(name) + _json_nbytes(listed) + 4
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    files[0].write(struct.pack("<Q", len(encoded)) + encoded)
    for tensor in tensors:
        tensor.write(files[0])


def _json_list(texts: RowColumn, most_nbytes: int) -> str | None:
    """Texts as a list in JSON, or None if it would take more bytes as a string in JSON."""
    parts: list[str] = []
    nbytes = 0
    for part in _parts(texts):
        listed = json.dumps(part)[1:-1]
        nbytes += _json_nbytes(listed)
        if nbytes > most_nbytes:
            return None
        parts.append(listed)
    return f"[{', '.join(parts)}]"


def _json_nbytes(text: str) -> int:
    return len(json.dumps(text))


def write_pt(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes a dictionary of tensors and lists of texts with ``torch.save``, for ``torch.load(weights_only=True)``."""
    import torch  # only this format needs it

    tensors, texts = _split(contents)
    saved: dict[str, Any] = {}
    path = getattr(files[0], "name", None)  # a stream may have none, or a number
    folder = os.path.dirname(os.path.abspath(path)) if isinstance(path, str | bytes) else None
    with tempfile.TemporaryFile(dir=folder) as spool:
        for tensor in tensors:
            saved[tensor.name] = torch.from_numpy(_spooled(tensor, spool))
        saved.update(
            {name: [entry for part in _parts(array) for entry in part] for name, array in texts.items()}
        )
        torch.save({**saved, "about": contents.about_json()}, files[0])


def _spooled(tensor: _Tensor, file: IO[bytes]) -> npt.NDArray[Any]:
    """Appends numbers to a file and maps them into memory: torch.save takes whole tensors, which may exceed it."""
    start = file.tell()
    tensor.write(file)
    file.flush()
    if not tensor.n_values:  # an empty range cannot be mapped
        return np.empty(tensor.shape, tensor.dtype)
    return np.memmap(file, dtype=tensor.dtype, mode="c", offset=start, shape=tensor.shape)
