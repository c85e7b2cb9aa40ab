"""Where the output of a run is made, and the lock that keeps others from it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sppfeat.config.request import ExtractRequest
from sppfeat.errors import ConfigError
from sppfeat.extraction.sharding import PLACEHOLDER, shard_path
from sppfeat.files.atomic import remove_leftovers
from sppfeat.files.locks import OutputLock, ShardLock
from sppfeat.files.remote.output import LocalOutput, local_output, url_of

__all__ = ["Lock", "lock_output", "output_here", "output_name"]

Lock = OutputLock | ShardLock | None
"""Of an output; None where nothing is written."""


def output_name(request: ExtractRequest) -> Path:
    """The output as it is named, with the number of the shard if that is asked for."""
    output = request.output
    if request.shared and PLACEHOLDER in str(output):
        raise ConfigError(f"with --shared all shards have one output, and {str(output)!r} has {PLACEHOLDER}")
    return shard_path(output, request.shard)


def output_here(request: ExtractRequest, output: Path) -> contextlib.AbstractContextManager[LocalOutput]:
    """Where on this machine an output is made, if a URL is given for it."""
    if request.shared and url_of(output) is not None:
        raise ConfigError(f"--shared is for an output of this machine, and {str(url_of(output))!r} is none")
    return local_output(output, scratch=request.scratch, overwrite=request.overwrite, dry_run=request.dry_run)


@contextlib.contextmanager
def lock_output(request: ExtractRequest) -> Iterator[Lock]:
    """Hold the lock that a run needs, if it writes; what killed ones left is removed."""
    if request.dry_run:
        yield None
    elif request.shard is not None and request.shared:
        with ShardLock(request.output, request.shard.name) as shard_lock:
            yield shard_lock
    else:
        with OutputLock(request.output) as lock:
            remove_leftovers(request.output)
            yield lock
