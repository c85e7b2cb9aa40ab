"""``sppfeat`` as a user calls it."""

from click.testing import CliRunner

from sppfeat.cli import main


def run(*arguments, **settings):
    """Runs a command in this process; ``env`` and ``input`` are click's settings."""
    return CliRunner().invoke(main, list(map(str, arguments)), **settings)
