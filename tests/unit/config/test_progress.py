"""Progress on a terminal, in a log and in a notebook."""

import re
import sys
import types

import pytest
from terminal import Terminal, widths

from sppfeat.cli.output import say
from sppfeat.config import progress
from sppfeat.config.progress import Bar


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize(
    "label", ["extracting", "a-file-with-a-very-long-name-of-weights-0123456789.safetensors"]
)
def test_a_bar_fits_the_terminal_and_disappears_at_the_end(monkeypatch, columns, label):
    with Terminal(monkeypatch, columns) as terminal:
        with Bar(label, 5000, unit="image") as bar:
            bar.move_to(1200, note="3 failed")
            printed = terminal.read()
        assert "24%" in printed or columns == 40
        assert max(widths(printed)) < columns
        assert max(widths(printed)) > columns - 5 or columns == 120
        assert "\n" not in printed
        assert terminal.read().strip(" \r") == ""


def test_a_bar_follows_the_width_of_the_terminal(monkeypatch):
    with Terminal(monkeypatch, 120) as terminal, Bar("extracting", 50, unit="image") as bar:
        for columns in (120, 60, 100):
            terminal.resize(columns)
            bar.move_to(bar._bar._bar.n + 1)
            assert columns - 5 < max(widths(terminal.read().rpartition("\r")[2].rstrip())) < columns


def test_a_task_of_unknown_length_has_its_label_only(monkeypatch):
    with Terminal(monkeypatch, 80) as terminal, Bar("preparing", 0, unit="image") as bar:
        assert terminal.read().strip() == "preparing ..."
        bar.move_to(3, 12, label="reading headers")
        assert re.search(r"reading headers:  25%\|.*\| 3/12 \[.* images/s\]", terminal.read())


def test_a_line_is_printed_above_the_bar(monkeypatch):
    with Terminal(monkeypatch, 80) as terminal, Bar("training", 10, unit="step"):
        terminal.read()
        say("epoch 1")
        assert re.search(r"\repoch 1\r?\n.*training: +0%", terminal.read(), re.DOTALL)


class Clock:
    """A clock in place of ``time``, which a test sets."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The clock of the bars."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_a_line_every_half_minute(clock, capsys):
    with Bar("extracting", 5000, unit="image") as bar:
        for second in range(0, 61, 10):
            clock.now = second
            bar.move_to(25 * second, note="3 failed" if second > 30 else "")
    assert capsys.readouterr().err.splitlines() == [
        "extracting: 750 of 5000 images (25 images/s, 2 min 50 s left)",
        "extracting: 1500 of 5000 images (25 images/s, 2 min 20 s left, 3 failed)",
    ]


def test_a_short_task_leaves_no_trace_in_a_log(clock, capsys):
    with Bar("extracting", 20, unit="image") as bar:
        for n in range(20):
            clock.now = n
            bar.move_to(n + 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("total", "unit", "line"),
    [
        (None, "box", "task: 3000000 boxes (1e+05 boxes/s)"),
        (10**8, "B", "task: 3.0 MB of 100 MB (100 kB/s, 16 min 10 s left)"),
        (None, "B", "task: 3.0 MB (100 kB/s)"),
        (6 * 10**6, "", "task: 3000000 of 6000000 (1e+05/s, 30 s left)"),
    ],
)
def test_lines_know_units(clock, capsys, total, unit, line):
    with Bar("task", total, unit=unit) as bar:
        clock.now = 30
        bar.move_to(3 * 10**6)
    assert capsys.readouterr().err == f"{line}\n"


def test_rates_restart_with_each_label(clock, capsys):
    with Bar("preparing", None, unit="row") as bar:
        clock.now = 20
        bar.move_to(0, 100, label="searching")
        clock.now = 30
        bar.move_to(50)
    assert capsys.readouterr().err == "searching: 50 of 100 rows (5 rows/s, 10 s left)\n"


def test_a_hidden_bar_prints_nothing(clock, capsys):
    with Bar("extracting", 20, unit="image", shown=False) as bar:
        clock.now = 100
        bar.move_to(3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("has_widgets", [True, False])
def test_a_notebook_with_widgets_has_its_own_bar(capsys, monkeypatch, has_widgets, recwarn):
    """Jupyter is played: a shell with a kernel, the package ipywidgets, and tqdm's bar for notebooks."""
    calls = []

    class Widget:
        def __init__(self, **settings):
            calls.append(settings)
            self.n, self.desc = 0, settings["desc"]

        def update(self, n):
            self.n += n

        def close(self):
            calls.append("closed")

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "tqdm.notebook", types.SimpleNamespace(tqdm=Widget))
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: object() if has_widgets else None)
    with Bar("extracting", 20, unit="image") as bar:
        bar.move_to(20)
    assert [call if call == "closed" else call["total"] for call in calls] == [20, "closed"] * has_widgets
    assert capsys.readouterr().err == ""
    assert not recwarn.list
