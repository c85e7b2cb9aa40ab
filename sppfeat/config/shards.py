"""Which part of a whole run a process does."""

from dataclasses import dataclass

from sppfeat.errors import ConfigError

__all__ = ["ShardChoice"]


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
