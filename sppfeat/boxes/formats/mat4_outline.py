"""The outline of a MATLAB file of version 4, checked before scipy reads it.

Its sizes are signed: one below 0 leads scipy's reader back to where it was, for ever (scipy 1.17). Layout:
MathWorks, "MAT-File Format", appendix "Level 4 MAT-File Format".
"""

import struct
from collections.abc import Collection

__all__ = ["check_outline_4", "is_version_4"]

_NUMBER_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # double, single, int32, int16, uint16, uint8
_FULL, _TEXT, _SPARSE = 0, 1, 2
_MOST_TYPE = 5000  # a larger one is of the other byte order, as scipy has it


def is_version_4(content: bytes) -> bool:
    """Whether scipy takes a file for one of version 4."""
    return 0 in content[:4]


def check_outline_4(content: bytes, names: Collection[str]) -> None:
    """Check that variables are arrays of numbers or texts, of the sizes that they declare.

    Args:
        content: of the file.
        names: of the variables to check; of others only what leads past them is.

    Raises:
        ValueError: they are not; says what was found and what is allowed.
    """
    order = "<" if int.from_bytes(content[:4], "little") <= _MOST_TYPE else ">"
    found: set[str] = set()
    start = 0
    while start < len(content):
        try:
            code, n_rows, n_columns, is_complex, n_name = struct.unpack_from(order + "5i", content, start)
        except struct.error as error:
            raise ValueError("found the end of the file; allowed: another variable") from error
        # Thousands: byte order, of which scipy reads two; hundreds: 0; tens: type of number; ones: class.
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
