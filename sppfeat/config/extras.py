"""Packages that only some commands need, imported where they are used."""

import importlib
from typing import Any

from sppfeat.errors import ConfigError

__all__ = ["import_extra"]


def import_extra(module: str, *, extra: str, purpose: str) -> Any:
    """Return a module of a package that is not always installed.

    Args:
        module: its name, such as ``sklearn.svm``.
        extra: of this package, that installs it: ``sppfeat[extra]``.
        purpose: what needs it; the message begins with it, in lower case as others do.

    Raises:
        ConfigError: it is not installed, or cannot be loaded; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package
        reason = "which is not installed" if missing else f"which cannot be loaded ({error})"
        raise ConfigError(
            f"{purpose} needs the package {package}, {reason}: pip install 'sppfeat[{extra}]'"
        ) from error
