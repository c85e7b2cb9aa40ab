"""What the shell completes: files where an option or argument takes more than files, and names of networks."""

import importlib.util
import re
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from sppfeat.networks.zoo import choose_names

__all__ = ["complete_backbones", "complete_files", "complete_weights"]

_MODEL = re.compile(r"^@register_model\((?:name=\"(\w+)\")?\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


def complete_files(
    ctx: click.Context,  # noqa: ARG001
    param: click.Parameter,  # noqa: ARG001
    incomplete: str,
) -> list[CompletionItem]:
    """Let the shell complete names of files and folders."""
    return [CompletionItem(incomplete, type="file")]


def complete_weights(
    ctx: click.Context,
    param: click.Parameter,
    incomplete: str,
) -> list[CompletionItem]:
    """Complete the words that are no file, else files."""
    words = [
        CompletionItem(word) for word in ("DEFAULT", "none") if incomplete and word.startswith(incomplete)
    ]
    return words or complete_files(ctx, param, incomplete)


def complete_backbones(
    ctx: click.Context,  # noqa: ARG001
    param: click.Parameter,  # noqa: ARG001
    incomplete: str,
) -> list[CompletionItem]:
    """Complete the names of networks: read from torchvision's sources, as importing it takes seconds."""
    return [CompletionItem(name) for name in choose_names(_declared_models()) if name.startswith(incomplete)]


def _declared_models() -> list[str]:
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.origin:
        return []
    sources = (Path(found.origin).parent / "models").glob("*.py")
    matches = (match for source in sources for match in _MODEL.finditer(source.read_text(encoding="utf-8")))
    return [match[1] or match[2] for match in matches]
