"""What the control groups that this process is in allow it. Imports nothing that a worker or ``--help`` must not."""

from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["read_limits"]


def read_limits(root: Path, controller: str, *, unified: str, legacy: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of a limit in each of the groups, from the outermost on; none where a file is missing.

    Args:
        root: of the file system.
        controller: that the limit is of, as version 1 names it.
        unified: name of the file that has it in version 2.
        legacy: names of the files that have it in version 1, put together.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            folder, names = root / "sys/fs/cgroup", [unified]
        elif controller in controllers.split(","):
            folder, names = root / "sys/fs/cgroup" / controller, list(legacy)
        else:
            continue
        for group in _groups(folder, path):
            yield " ".join(_text(group / name) for name in names).split()


def _groups(mount: Path, path: str) -> list[Path]:
    """The folders of a group and of all that it is in; a container may see its own group as the outermost one."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:n]) for n in range(len(parts) + 1)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
