"""The option ``--shard``, and the outputs of shards."""

from pathlib import Path

from sppfeat.cli.options import Parsed
from sppfeat.config import ShardChoice
from sppfeat.errors import ConfigError
from sppfeat.ranks import parse_shard

__all__ = ["SHARD", "output_of_shard"]

SHARD = Parsed("I/N|auto", parse_shard)
_PLACEHOLDER = "{shard}"


def output_of_shard(output: Path, shard: ShardChoice | None, *, shared: bool) -> Path:
    """The output of a shard: with its number in the place of ``{shard}``.

    Raises:
        ConfigError: the name asks for the number where there is none, or where all shards have one output.
    """
    if _PLACEHOLDER not in str(output):
        return output
    if shard is None:
        raise ConfigError(f"the output {str(output)!r} has {_PLACEHOLDER} in its name: it goes with --shard")
    if shared:
        raise ConfigError(f"with --shared all shards have one output, and {str(output)!r} has {_PLACEHOLDER}")
    return Path(str(output).replace(_PLACEHOLDER, shard.name))
