"""Tensor formats: PyTorch's .pt, and .safetensors.

Both are written here, without torch and safetensors, whose writers take whole tensors: vectors may exceed the memory.
"""

import json
import pickle
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import VECTORS, Contents
from sppfeat.store.row_table import RowColumn, TextColumn

__all__ = ["write_pt", "write_safetensors"]

_HEADER_LIMIT = 100_000_000  # bytes; readers of safetensors refuse a longer header
_ALIGNMENT = 64  # bytes; torch.load(mmap=True) maps storages that are aligned to it
_ZIP_HEADER_NBYTES = 30 + 20  # before a zip member, without its name; the last field holds 64-bit sizes

# Names of number types in safetensors, and of their storages in torch.
_TYPES = {
    "float64": ("F64", "DoubleStorage"),
    "float32": ("F32", "FloatStorage"),
    "float16": ("F16", "HalfStorage"),
    "int64": ("I64", "LongStorage"),
    "int32": ("I32", "IntStorage"),
    "uint8": ("U8", "ByteStorage"),
    "bool": ("BOOL", "BoolStorage"),
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

    def write(self, file: BinaryIO) -> None:
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
        kind, _ = _TYPES[tensor.dtype.name]
        header[tensor.name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": (start, end)}
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
    """Writes what ``torch.save`` writes for a dictionary of tensors and lists of texts.

    It is a zip archive of one pickle, which ``torch.load(weights_only=True)`` accepts, and of one member per tensor.
    """
    tensors, texts = _split(contents)
    with zipfile.ZipFile(files[0], "w") as archive:
        with _record(archive, "data.pkl") as file:
            file.write(pickle.PROTO + b"\2" + pickle.EMPTY_DICT + pickle.MARK)
            for key, tensor in enumerate(tensors):
                file.write(_opcodes(tensor.name) + _tensor_opcodes(tensor, str(key)))
            for name, array in texts.items():
                file.write(_opcodes(name) + pickle.EMPTY_LIST)
                for part in _parts(array):
                    file.write(b"".join(_opcodes(entry) + pickle.APPEND for entry in part))
            file.write(_opcodes("about") + _opcodes(contents.about_json()) + pickle.SETITEMS + pickle.STOP)
        for name, content in (("byteorder", b"little"), ("version", b"3\n")):
            with _record(archive, name) as file:
                file.write(content)
        for key, tensor in enumerate(tensors):
            with _record(archive, f"data/{key}") as file:
                tensor.write(file)


def _record(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    """Opens an aligned member of a torch file, without a time stamp, so that equal exports have equal bytes."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    padding = -(archive.start_dir + _ZIP_HEADER_NBYTES + len(entry.filename) + 4) % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    return cast(BinaryIO, archive.open(entry, "w", force_zip64=True))


def _tensor_opcodes(tensor: _Tensor, key: str) -> bytes:
    """Opcodes of a contiguous tensor on the CPU, whose storage is the member ``data/KEY``."""
    _, storage = _TYPES[tensor.dtype.name]
    strides = tuple(
        int(np.prod(tensor.shape[axis + 1 :], dtype=np.int64)) for axis in range(len(tensor.shape))
    )
    storage_id = (
        pickle.MARK
        + _opcodes("storage")
        + _name_opcodes("torch", storage)
        + b"".join(map(_opcodes, (key, "cpu", tensor.n_values)))
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    arguments = (
        pickle.MARK
        + storage_id
        + b"".join(map(_opcodes, (0, tensor.shape, strides, False)))  # offset, shape, strides, requires_grad
        + (_name_opcodes("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE)  # hooks
        + pickle.TUPLE
    )
    return _name_opcodes("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _name_opcodes(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _opcodes(value: object) -> bytes:
    """Opcodes that build a value of Python's own types: its pickle without the protocol and the end."""
    return pickle.dumps(value, protocol=2)[2:-1]
