"""Reasons why descriptors from two configurations, or from two files, cannot be compared."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sppfeat.config.extract_config import ExtractConfig, config_differences

if TYPE_CHECKING:
    from sppfeat.store.feature_table import FeatureTable

__all__ = ["descriptor_differences", "extraction_differences"]

# Settings that may differ between comparable descriptors: storage, arithmetic precision, and boxes. norm_factors is
# set only if the factors came from another file; extraction_differences compares the factors themselves.
_MAY_DIFFER = {
    "nonfinite",
    "norm_factors",
    "dtype",
    "precision",
    "exif",
    "boxes",
    "boxes_sha256",
    "drop_duplicates",
}
_BOX_SETTINGS = {"projection", "margin"}  # may differ if one side describes whole images


def descriptor_differences(
    recorded: ExtractConfig,
    other: ExtractConfig,
    *,
    names: tuple[str, str] = ("the file", "this command"),
    ignoring: Collection[str] = (),
) -> list[str]:
    """Return one line for each setting that makes the descriptors of two configurations incomparable.

    Network, weights, layers, pyramid, pooling, input size and normalization must be equal. Boxes, arithmetic precision
    and storage may differ, and the keys of :meth:`ExtractConfig.to_dict` in ``ignoring``. The factors of ``meannorm``
    are not compared. ``names`` are those of the two configurations in the lines.
    """
    free = _MAY_DIFFER.union(ignoring) | (set() if recorded.regions and other.regions else _BOX_SETTINGS)
    compared: list[dict[str, Any]] = [
        {
            name: value
            for name, value in config.to_dict().items()
            if name not in free and not name.startswith("box_")
        }
        for config in (recorded, other)
    ]
    return config_differences(*compared, names=names)


def extraction_differences(recorded: "FeatureTable", other: "FeatureTable") -> list[str]:
    """Return one line for each reason why the descriptors of two open files cannot be compared, before any reduction.

    Besides :func:`descriptor_differences`, this compares the factors of ``meannorm``.
    """
    names = repr(str(recorded.path)), repr(str(other.path))
    differences = descriptor_differences(recorded.config, other.config, names=names)
    factors = recorded.norm_factors, other.norm_factors
    if factors[0] != factors[1]:
        differences.append(
            f"meannorm factors: {names[0]} has {_format(factors[0])}, {names[1]} has {_format(factors[1])}; "
            "extract one with --normalize-from the other"
        )
    return differences


def _format(factors: tuple[float, ...] | None) -> str:
    return "none" if factors is None else ", ".join(f"{factor:.6g}" for factor in factors)
