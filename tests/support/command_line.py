"""``sppfeat`` as a user calls it."""

from click.testing import CliRunner

from sppfeat.cli import main


def run(*arguments, code=None, **settings):
    """Runs a command in this process and checks its exit code, if ``code`` says which it must be.

    ``env`` and ``input`` are click's settings.
    """
    result = CliRunner().invoke(main, list(map(str, arguments)), **settings)
    assert code is None or result.exit_code == code, result.output
    return result
