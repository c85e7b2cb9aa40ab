"""``sppfeat show``: a group of commands that draw, each in a module of its own."""

import click

from sppfeat.cli.groups import LazyGroup

__all__ = ["show"]

_MODULES = {
    "image": "show_image",
    "embedding": "show_file",
    "neighbours": "show_file",
    "norms": "show_file",
    "sizes": "show_file",
}


@click.group(cls=LazyGroup, modules=_MODULES, short_help="Draw pictures of an image, or of a feature file.")
def show() -> None:
    """Draw pictures, as .png, .svg or .pdf.

    Needs matplotlib: pip install 'sppfeat[plot]'. No window is opened and no display is needed.
    """
