"""All settings that a descriptor depends on, with their record in feature files and their fingerprint."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sppfeat.config.regions import RegionSpec
from sppfeat.config.specs import BackboneSpec, DescriptorSpec, InputSpec
from sppfeat.config.values import check_fields
from sppfeat.errors import ConfigError

__all__ = ["ExtractConfig", "config_differences"]

# Recorded only if they differ from these defaults, so that files made before these settings existed can be continued.
_OPTIONAL: dict[str, Any] = {
    "scales": [],
    "head": None,
    "norm_factors": None,
    "nonfinite": "fail",
    "round_to": 1,
    "decode": "exact",
    "box_label": None,
}

_BOX_SETTINGS = set(RegionSpec(boxes="multiview").to_dict()) - {"boxes"}


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """All settings that a descriptor depends on, and no others; equal settings give equal descriptors.

    ``precision`` is that of the network; ``regions`` are the boxes to pool, or None for whole images.
    """

    backbone: BackboneSpec
    input: InputSpec
    descriptor: DescriptorSpec
    precision: str = "fp32"
    regions: RegionSpec | None = None

    def __post_init__(self) -> None:
        check_fields(self, "precision")
        if self.input.scales and self.regions is None:
            raise ConfigError("--scales needs boxes: add --boxes, or give one --size")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a flat dict of JSON values; tuples become lists."""
        flat = vars(self.backbone) | vars(self.input) | vars(self.descriptor) | {"precision": self.precision}
        flat["backbone"] = flat.pop("name")
        flat |= self.regions.to_dict() if self.regions else {}
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in flat.items()}
        return {n: v for n, v in values.items() if n not in _OPTIONAL or v != _OPTIONAL[n]}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "ExtractConfig":
        """Return the configuration that :meth:`to_dict` recorded.

        Raises:
            ConfigError: a setting is missing, unknown or invalid.
        """
        if not isinstance(settings, Mapping):
            raise ConfigError(f"the recorded configuration is {settings!r}, not a table of settings")
        recorded = {**_OPTIONAL, **settings}
        rest: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in recorded.items()}
        try:
            precision = rest.pop("precision")
            regions = RegionSpec.take_from(rest)
            rest["name"] = rest.pop("backbone")
            backbone, inputs, descriptor = (
                {field.name: rest.pop(field.name) for field in dataclasses.fields(kind)}
                for kind in (BackboneSpec, InputSpec, DescriptorSpec)
            )
            found = cls(
                backbone=BackboneSpec(**backbone),
                input=InputSpec(**inputs),
                descriptor=DescriptorSpec(**descriptor),
                precision=precision,
                regions=regions,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"the recorded configuration is incomplete or malformed: {error}") from error
        if rest:
            unknown = ", ".join(map(repr, sorted(rest)))
            raise ConfigError(f"the recorded configuration has unknown settings: {unknown}")
        return found

    def to_json(self) -> str:
        """Return the settings as canonical JSON: sorted keys, no white space."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def config_differences(
    recorded: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    names: tuple[str, str] = ("the file", "this command"),
) -> list[str]:
    """Return one line per setting that differs, with both values.

    If only one of them uses boxes, or if the kinds of boxes differ, there is a single line about boxes. Box files are
    compared by checksum, which is not shown.

    Args:
        recorded, wanted: settings as :meth:`ExtractConfig.to_dict` returns them.
        names: names of the two in the lines.
    """

    def shown(settings: Mapping[str, Any], name: str) -> str:
        return repr(settings[name]) if name in settings else "not set"

    differing = [
        name
        for name in sorted(set(recorded) | set(wanted))
        if (name in recorded, recorded.get(name)) != (name in wanted, wanted.get(name))
    ]
    if "boxes" in differing:
        differing = [name for name in differing if name not in _BOX_SETTINGS]
    return [
        "boxes: the content of the box file has changed"
        if name == "boxes_sha256"
        else f"{name}: {shown(recorded, name)} in {names[0]}, {shown(wanted, name)} in {names[1]}"
        for name in differing
    ]
