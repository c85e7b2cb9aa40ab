"""A structural check of MATLAB files of version 4 to 7, made before scipy reads them.

scipy's reader is not hardened, as its documentation says since scipy 1.17. In versions 5 to 7, an invalid type code
or a wrong size makes it read beyond its tables and crash the process, and a text of no bytes becomes as many blanks
as its shape declares. In version 4, a negative size sends it back to where it was, forever. Layouts: MathWorks,
"MAT-File Format", Version 5 and appendix "Level 4 MAT-File Format".
"""

import math
import struct
import zlib
from collections.abc import Collection

from sppfeat.boxes.formats.arrays import BoxBudget

__all__ = ["check_outline"]

# Of version 4:
_NUMBER_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # double, single, int32, int16, uint16, uint8
_FULL, _TEXT, _SPARSE = 0, 1, 2
_MOST_TYPE = 5000  # scipy takes a larger one for the other byte order

# Of version 5 to 7:
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _CHAR, _OPAQUE = 1, 4, 17
_NUMERIC = range(6, 16)  # double, single and the integers
_COMPLEX = 0x800
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_CHARACTERS = (1, 2, 3, 4, 16, 17, 18)

_MOST_SIDES = 32  # numpy's limit

_MOST_EXPANSION = 1000
_MOST_EXPANDED = 100 * 2**20

_BOXES_PER_CELL = 4  # a cell takes as much memory


def check_outline(content: bytes, names: Collection[str]) -> None:
    """Check that variables are arrays of numbers or text, or cells of these, with the sizes that they declare.

    Args:
        content: bytes of the file.
        names: variables to check; of all others only the sizes are checked.

    Raises:
        ValueError: a check failed; the message gives the value found and the allowed ones.
    """
    is_version_4 = 0 in content[:4]  # as scipy tells them apart
    (_check_version_4 if is_version_4 else _check_version_5)(content, names)


def _check_version_4(content: bytes, names: Collection[str]) -> None:
    order = "<" if int.from_bytes(content[:4], "little") <= _MOST_TYPE else ">"
    found: set[str] = set()
    start = 0
    while start < len(content):
        try:
            code, n_rows, n_columns, is_complex, n_name = struct.unpack_from(order + "5i", content, start)
        except struct.error as error:
            raise ValueError("found the end of the file; allowed: another variable") from error
        # Thousands: byte order (scipy reads two of them); hundreds: 0; tens: type of number; ones: class.
        kind, array_class = code // 10 % 100, code % 10
        if (
            code // 1000 not in (0, 1)
            or kind not in _NUMBER_BYTES
            or array_class not in (_FULL, _TEXT, _SPARSE)
        ):
            raise ValueError(f"found a variable of type {code}; allowed: numbers and texts of version 4")
        if min(n_rows, n_columns, n_name) < 0:
            raise ValueError(
                f"found a variable of {n_rows} x {n_columns} and a name of {n_name} bytes; allowed: sizes from 0"
            )
        n_parts = 2 if is_complex == 1 and array_class != _SPARSE else 1
        begin = start + 20 + n_name
        start = begin + n_rows * n_columns * _NUMBER_BYTES[kind] * n_parts
        if start > len(content):
            raise ValueError(
                f"found {len(content)} bytes, but a variable of {n_rows} x {n_columns} up to byte {start}; allowed: all"
            )
        name = content[begin - n_name : begin].strip(b"\0").decode("latin-1")
        if name in names:
            if array_class == _SPARSE:
                raise ValueError(f"found {name}, a sparse array; allowed: numbers and texts")
            if name in found:
                raise ValueError(f"found {name} twice; allowed: once")
            found.add(name)


def _check_version_5(content: bytes, names: Collection[str]) -> None:
    if len(content) < _HEADER_BYTES:
        raise ValueError(f"found {len(content)} bytes; allowed: {_HEADER_BYTES} and more")
    order = "<" if content[126:128] == b"IM" else ">"
    variables = _Elements(memoryview(content)[_HEADER_BYTES:], order, alignment=1)
    found: set[str] = set()
    budget = BoxBudget(len(content))
    while variables:
        kind, variable = variables.read()
        if kind == _COMPRESSED:
            kind, variable = _Elements(_expand(variable), order).read()
        _check_kind(kind, (_MATRIX,))
        _add_name(found, _check_matrix(variable, order, budget, names=names))


def _add_name(found: set[str], name: str | None) -> None:
    if name in found:
        raise ValueError(f"found {name} twice; allowed: once")
    if name is not None:
        found.add(name)


class _Elements:
    """Reads the elements of a file one after the other: each is a tag with type and size, and that many bytes."""

    def __init__(self, content: memoryview, order: str, *, alignment: int = 8) -> None:
        self._content = content
        self._order = order
        self._alignment = alignment
        self._start = 0

    def __bool__(self) -> bool:
        return self._start < len(self._content)

    def read(self) -> tuple[int, memoryview]:
        """Return the type and the bytes of the next element."""
        try:
            kind, n_bytes = struct.unpack_from(self._order + "II", self._content, self._start)
        except struct.error as error:
            raise ValueError("found the end of the file or variable; allowed: another element") from error
        begin = self._start + 8
        if kind >> 16:  # the short form: size and type in four bytes, the content in the next four
            n_bytes, kind, begin = kind >> 16, kind & 0xFFFF, begin - 4
            if n_bytes > 4:
                raise ValueError(f"found a short element of {n_bytes} bytes; allowed: 4")
            self._start += 8
        else:
            self._start = begin + n_bytes + -n_bytes % self._alignment
        if begin + n_bytes > len(self._content):
            raise ValueError(
                f"found {len(self._content) - begin} bytes of an element of {n_bytes}; allowed: all"
            )
        return kind, self._content[begin : begin + n_bytes]


def _expand(compressed: memoryview) -> memoryview:
    most = max(_MOST_EXPANDED, _MOST_EXPANSION * len(compressed))
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(compressed, most)
    except zlib.error as error:
        raise ValueError(
            f"found a compressed variable that is damaged: {error}; allowed: a whole one"
        ) from error
    if not stream.eof:
        raise ValueError(
            f"found a compressed variable that is cut off, or beyond {most} bytes; allowed: a whole one"
        )
    return memoryview(content)


def _check_matrix(
    matrix: memoryview, order: str, budget: BoxBudget, *, names: Collection[str] | None
) -> str | None:
    """Check an array and return its name; None for a variable that is not in ``names``.

    Args:
        matrix: content of the element.
        order: byte order in the notation of struct.
        budget: limit that counts the boxes.
        names: variables to check; None for an array in a cell, which is always checked.
    """
    parts = _Elements(matrix, order)
    _, flags = parts.read()
    if len(flags) != 8:
        raise ValueError(f"found array flags of {len(flags)} bytes; allowed: 8")
    (word,) = struct.unpack_from(order + "I", flags)
    array_class = word & 0xFF
    sides = memoryview(b"")
    if array_class != _OPAQUE:  # has no sides
        kind, sides = parts.read()
        _check_kind(kind, (5, 6))
    _, name_bytes = parts.read()
    name = bytes(name_bytes).decode("latin-1")
    if names is not None and name not in names:
        return None
    if len(sides) > 4 * _MOST_SIDES:
        raise ValueError(f"found an array of {len(sides) // 4} dimensions; allowed: {_MOST_SIDES}")
    shape = struct.unpack_from(f"{order}{len(sides) // 4}i", sides)
    if array_class != _OPAQUE and min(shape, default=-1) < 0:
        raise ValueError(f"found an array of shape {shape}; allowed: sizes from 0")
    n_items = math.prod(shape)
    if array_class == _CELL and names is not None:
        _check_cells(parts, order, budget, n_items)
    elif array_class == _CHAR:
        kind, text = parts.read()
        _check_kind(kind, _CHARACTERS)
        if n_items > len(text):
            raise ValueError(f"found {len(text)} bytes for a text of shape {shape}; allowed: one a character")
    elif array_class in _NUMERIC:
        budget.take(n_items // 4)
        for _ in range(2 if word & _COMPLEX else 1):
            kind, items = parts.read()
            _check_kind(kind, _ITEM_BYTES)
            if len(items) != n_items * _ITEM_BYTES[kind]:
                raise ValueError(
                    f"found {len(items)} bytes for an array of shape {shape}; allowed: as many as it has"
                )
    else:
        raise ValueError(
            f"found an array of class {array_class}; allowed: numbers, texts, or a cell array of these"
        )
    if parts:
        raise ValueError("found more in an array than belongs to it; allowed: nothing behind its elements")
    return name


def _check_cells(parts: _Elements, order: str, budget: BoxBudget, n_cells: int) -> None:
    budget.take(_BOXES_PER_CELL * n_cells)
    for _ in range(n_cells):
        kind, cell = parts.read()
        _check_kind(kind, (_MATRIX,))
        if cell:  # an empty element is an empty array
            _check_matrix(cell, order, budget, names=None)


def _check_kind(kind: int, allowed: Collection[int]) -> None:
    if kind not in allowed:
        raise ValueError(f"found an element of type {kind}; allowed: {', '.join(map(str, allowed))}")
