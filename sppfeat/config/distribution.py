"""One shard of a run: the number a process is given, and the images and rows its file records."""

import dataclasses
import json
from dataclasses import dataclass

from sppfeat.errors import ConfigError

__all__ = ["Shard", "ShardChoice"]


@dataclass(frozen=True)
class ShardChoice:
    """Which shard of how many.

    Attributes:
        index: from 1.
        count: of all.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(
                f"shard {self.index}/{self.count}; allowed: 1/{self.count} to {self.count}/{self.count}"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """As part of a file name: sorted by name is sorted by index."""
        width = max(5, len(str(self.count)))
        return f"{self.index:0{width}d}-of-{self.count:0{width}d}"


@dataclass(frozen=True)
class Shard:
    """Which images and rows of a whole plan a file has.

    Attributes:
        index, count: see :class:`ShardChoice`; how the shards were called when they were cut.
        first_image, stop_image: half-open range of the plan's images.
        first_row, stop_row: and of its rows.
        n_images, n_rows: of the whole plan.
        plan: digest of the whole plan, see ``Plan.digest``.
    """

    index: int
    count: int
    first_image: int
    stop_image: int
    first_row: int
    stop_row: int
    n_images: int
    n_rows: int
    plan: str

    def __post_init__(self) -> None:
        numbers = dataclasses.astuple(self)[:-1]
        if not all(type(number) is int and number >= 0 for number in numbers) or not (
            isinstance(self.plan, str)
            and 1 <= self.index <= self.count
            and self.first_image <= self.stop_image <= self.n_images
            and self.first_row <= self.stop_row <= self.n_rows
        ):
            raise ConfigError(f"not the record of a shard: {dataclasses.asdict(self)}")

    def __str__(self) -> str:
        return f"shard {self.index}/{self.count}, images {self.first_image} to {self.stop_image} of {self.n_images}"

    def to_json(self) -> str:
        """The record as it is kept in the attribute ``shard`` of a file."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        """Return the record that :meth:`to_json` wrote.

        Raises:
            ConfigError: it is not one.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"not the record of a shard: {error}") from error
