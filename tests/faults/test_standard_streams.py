"""Standard streams that are closed, or on a full disk."""

import errno
import io
import sys

import pytest

from sppfeat.cli.bars import Bar
from sppfeat.cli.output import print_json, print_result, say, standard_output
from sppfeat.errors import ConfigError, StoreError
from sppfeat.inputs.read import read_list


class Failing(io.StringIO):
    """A stream that cannot be written to."""

    def __init__(self, number):
        super().__init__()
        self._number = number

    def write(self, text):
        raise OSError(self._number, "No space left on device")


@pytest.mark.parametrize("show", [print_result, print_json])
def test_results_that_cannot_be_written_are_an_error_unless_their_reader_has_left(monkeypatch, show):
    monkeypatch.setattr(sys, "stdout", Failing(errno.ENOSPC))
    with pytest.raises(StoreError, match="cannot write to standard output: No space left"):
        show("text")
    monkeypatch.setattr(sys, "stdout", Failing(errno.EPIPE))
    with pytest.raises(BrokenPipeError):  # click exits silently
        show("text")


def test_a_stream_that_is_closed_cannot_be_written_to(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(StoreError, match="cannot write to standard output: it is closed"):
        standard_output()


def test_a_list_cannot_be_read_from_a_stream_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="standard input: it is closed"):
        read_list("-")


@pytest.mark.parametrize("stream", [None, Failing(errno.EPIPE)])
def test_a_bar_needs_no_standard_error(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar("counting", 3, unit="row") as bar:
        bar.move_to(3)
        say("three")
