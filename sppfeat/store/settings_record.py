"""What a feature file says of how it was made, read from its attributes."""

import json
import math
from typing import Any

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, StoreError
from sppfeat.store.reduction import FitRecord, Reduction
from sppfeat.store.stored_file import StoredFile

__all__ = ["read_config", "read_norm_factors", "read_reduction", "read_shard"]


def read_config(stored: StoredFile) -> ExtractConfig:
    """Return the settings that the descriptors were extracted with.

    Raises:
        StoreError: they are none.
    """
    where = f"{str(stored.path)!r}: its attribute 'config'"
    try:
        return ExtractConfig.from_dict(json.loads(stored.attribute("config")))
    except json.JSONDecodeError as error:
        raise StoreError(f"{where} is not JSON: {error}") from error
    # Nested too deeply, digits without end, or a value of a type that nobody thought of.
    except (ConfigError, RecursionError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise StoreError(f"{where}: {one_line(str(error))}") from error


def read_norm_factors(stored: StoredFile) -> tuple[float, ...] | None:
    """Return what ``meannorm`` multiplied each layer's part with; None where that was not asked for.

    Raises:
        StoreError: they are no numbers above 0.
    """
    text = stored.find_attribute("norm_factors")
    if text is None:
        return None
    try:
        recorded = json.loads(text)
        factors = tuple(map(_positive_number, recorded)) if isinstance(recorded, list) else ()
    except (RecursionError, ValueError, OverflowError):
        factors = ()
    if not factors:
        raise StoreError(
            f"{str(stored.path)!r}: its attribute 'norm_factors' is {one_line(repr(text))}; "
            "allowed: a list of numbers above 0"
        )
    return factors


def read_reduction(stored: StoredFile) -> Reduction:
    """Return what reduced the descriptors of a file of which they were.

    Raises:
        StoreError: it cannot be applied.
    """
    try:
        return Reduction(
            record=FitRecord.from_json(stored.attribute("reduction")),
            mean=stored.read("reduction/mean"),
            components=stored.read("reduction/components"),
            scale=stored.read("reduction/scale"),
        )
    except ConfigError as error:
        raise StoreError(f"{str(stored.path)!r}: its reduction: {one_line(str(error))}") from error


def read_shard(stored: StoredFile) -> Shard | None:
    """Return which images and rows of a whole plan the file has; None: all of them.

    Raises:
        StoreError: it says nonsense.
    """
    text = stored.find_attribute("shard")
    if text is None:
        return None
    try:
        return Shard.from_json(text)
    except ConfigError as error:
        raise StoreError(f"{str(stored.path)!r}: its attribute 'shard': {one_line(str(error))}") from error


def _positive_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is no number above 0")
    return float(value)
