"""``sppfeat`` as a user calls it."""

from click.testing import CliRunner

from sppfeat.cli import main


def run(*arguments, code=None, **settings):
    """Runs a command in this process and checks its exit code against ``code``, if given.

    ``settings`` are those of ``CliRunner.invoke``, such as ``env`` and ``input``.
    """
    result = CliRunner().invoke(main, list(map(str, arguments)), **settings)
    assert code is None or result.exit_code == code, result.output
    return result
