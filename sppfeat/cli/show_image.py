"""``sppfeat show image``."""

from pathlib import Path

import click

from sppfeat.cli.options import option
from sppfeat.errors import ConfigError

__all__ = ["image"]


@click.command(short_help="The pyramid's bins on a photograph, and what is pooled in them.")
@click.argument("photo")
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The picture to write: .png, .svg or .pdf.",
)
def image(photo: str, output: Path) -> None:
    """Draw the pyramid's bins on a photograph, and what is pooled in them."""
    raise ConfigError(f"{photo!r} cannot be drawn to {str(output)!r} yet")
