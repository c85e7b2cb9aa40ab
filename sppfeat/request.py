"""What a user asks of an extraction, and what is answered before it starts."""

from dataclasses import dataclass, field
from pathlib import Path

from sppfeat.config import DEFAULT_BACKBONE, DescriptorSpec, ExtractConfig, InputSpec, RunOptions
from sppfeat.errors import ConfigError

__all__ = ["BackboneChoice", "ExtractRequest", "PlanSummary"]


@dataclass(frozen=True, kw_only=True)
class BackboneChoice:
    """Which backbone to load; see :func:`sppfeat.backbones.load_backbone`."""

    name: str = DEFAULT_BACKBONE
    weights: str = "DEFAULT"
    layers: tuple[str, ...] = ()
    seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ExtractRequest:
    """What a user asks of an extraction.

    Attributes:
        inputs, labels: see :func:`sppfeat.sources.list_images`.
        output: the feature file.
        backbone, input, descriptor, precision: what shapes a descriptor.
        run: how the work is done.
        overwrite: replace an existing output once the new one is complete.
        retry_failed: try failed images of an existing output again.
        add_new: add inputs that an existing output does not have.
        dry_run: only plan; write nothing, take no lock.
    """

    inputs: tuple[str, ...]
    output: Path
    labels: str = "auto"
    backbone: BackboneChoice = field(default_factory=BackboneChoice)
    input: InputSpec = field(default_factory=InputSpec)
    descriptor: DescriptorSpec = field(default_factory=DescriptorSpec)
    precision: str = ExtractConfig.precision
    run: RunOptions = field(default_factory=RunOptions)
    overwrite: bool = False
    retry_failed: bool = False
    add_new: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.overwrite and (self.retry_failed or self.add_new):
            raise ConfigError("--overwrite starts anew: it goes with neither --retry-failed nor --add-new")


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """What a run is going to do, for people and programs."""

    output: str
    images: int
    already_done: int
    already_failed: int
    to_do: int
    unreadable: int
    rows: int
    dimension: int
    output_bytes: int
    input_shapes: int
    classes: int
    backbone: str
    weights: str
    layers: list[str]
    levels: list[int]
    device: str
    precision: str
    workers: int
    notes: list[str]
