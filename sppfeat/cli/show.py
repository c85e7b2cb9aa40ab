"""``sppfeat show``: a group of commands that draw, each in a module of its own."""

import importlib

import click

__all__ = ["show"]

_MODULES = {  # in the order of --help: where each command is, under its own name
    "image": "show_image",
    "embedding": "show_file",
    "neighbours": "show_file",
    "norms": "show_file",
    "sizes": "show_file",
}


class _Pictures(click.Group):
    """Finds the pictures in the modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"sppfeat.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_Pictures, short_help="Draw pictures: what the network sees of an image.")
def show() -> None:
    """Draw pictures, as .png, .svg or .pdf.

    Needs matplotlib: pip install 'sppfeat[plot]'. No window is opened and no display is needed.
    """
