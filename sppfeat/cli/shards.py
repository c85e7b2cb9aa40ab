"""The options ``--shard`` and ``--shard-size``, and the outputs of shards."""

import re

from sppfeat.cli.options import Parsed
from sppfeat.config.distribution import parse_shard

__all__ = ["NBYTES", "SHARD"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _nbytes(text: str) -> int:
    """The bytes that a text such as ``2GB`` means."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]?)(I?)B?", text.strip().upper())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is no size; allowed: bytes, such as 500MB, 2GB or 1GiB")
    unit = _UNITS[match[2]]
    return int(float(match[1]) * (1024 ** (list(_UNITS).index(match[2])) if match[3] else unit))


SHARD = Parsed("I/N|auto", parse_shard)
NBYTES = Parsed("bytes", _nbytes)
