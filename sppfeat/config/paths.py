"""How callers may name a file or a folder; nothing heavy is imported for it."""

import os
from typing import TypeAlias

__all__ = ["StrPath"]

StrPath: TypeAlias = str | os.PathLike[str]
