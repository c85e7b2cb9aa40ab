"""The README and the pages of docs/: their fenced blocks, and the outputs that they show."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from places import README, REPOSITORY

__all__ = ["PAGES", "Block", "commands_in", "read_blocks", "runnable", "unlike"]

PAGES = {path.stem: path for path in [README, *sorted((REPOSITORY / "docs").glob("*.md"))]}

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<steering>.*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# Figures of the machine: sizes in bytes, times, rates, dates.
_MEASURED = re.compile(
    r"\b\d[\d.,]*(?= ?(?:s|ms|min|images/s|img/s|bytes|kB|MB|GB)\b)|\b\d{4}-\d\d-\d\d[T ][\d:.+]+", re.ASCII
)


@dataclass
class Block:
    """A fenced block of a page.

    Attributes:
        line: number of the block's first line in the page.
        language: ``sh``, ``python`` or another one.
        text: its lines.
        steering: text of the comment ``<!-- test: ... -->`` above it; empty without.
        output: text of the ``text`` block that follows; None without one.
    """

    line: int
    language: str
    text: str
    steering: str = ""
    output: str | None = None

    @property
    def is_skipped(self) -> bool:
        """True if the comment gives a reason for not running the block."""
        return re.match(r"skip, \w", self.steering) is not None

    @property
    def exit_code(self) -> int:
        """The exit code of the block's last command."""
        match = re.fullmatch(r"exit (\d+)", self.steering)
        return int(match[1]) if match else 0

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that the comment sets."""
        if self.is_skipped or self.exit_code or not self.steering:
            return {}
        return dict(word.split("=", 1) for word in self.steering.split())


def read_blocks(page: Path) -> list[Block]:
    """The ``sh`` and ``python`` blocks of a page, each with the output that the page shows for it."""
    text = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    end = None
    for match in _BLOCK.finditer(text):
        is_next = end is not None and not text[end : match.start()].strip()
        if match["language"] == "text" and is_next and blocks[-1].output is None:
            blocks[-1].output = match["text"]
        if match["language"] in ("sh", "python"):
            line = text.count("\n", 0, match.start("text"))
            blocks.append(Block(line, match["language"], match["text"], match["steering"] or ""))
            end = match.end()
        else:
            end = None
    return blocks


def runnable(script: str) -> str:
    """A shell script without what installs packages."""
    return re.sub(r"^pip [^&\n]*(&& |$)", "", script, flags=re.MULTILINE)


def commands_in(script: str) -> list[list[str]]:
    """The arguments of each ``sppfeat`` command in a shell script.

    >>> commands_in("sppfeat info a.h5 --json | jq .\\nseq 2 | xargs sppfeat verify 'a b.h5'  # check")
    [['info', 'a.h5', '--json'], ['verify', 'a b.h5']]
    """
    found: list[list[str]] = []
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] | None = None
        for word in words:
            if set(word) <= set("();<>|&"):
                command = None
            elif word == "sppfeat" and command is None:
                command = []
                found.append(command)
            elif command is not None:
                command.append(word)
    return found


def _comparable(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        if "this machine" in line:  # a hint about its processor
            continue
        line = re.sub(r"^(\s*device:?\s).*", r"\1#", line)
        lines.append(re.sub(r"\s+", " ", _MEASURED.sub("#", line)).strip())
    return [line for line in lines if line]


def unlike(shown: str, printed: str) -> str | None:
    """The first line of a page's output that a program did not print there, or the first it printed too much.

    Figures of the machine may differ; ``...`` stands for any text of a line, and as a line of its own for any lines.

    >>> unlike("Done: 20 images in 1.9 s\\n...\\nend", "Done: 20 images in 2.1 s\\na\\nb\\nend")
    >>> unlike("a ... c", "a b d")
    "shown: 'a ... c'; printed: 'a b d'"
    """
    printed_lines = iter(_comparable(printed))
    skipping = False
    for expected in _comparable(shown):
        if expected == "...":
            skipping = True
            continue
        pattern = re.compile(".*".join(map(re.escape, expected.split("..."))))
        line = next(printed_lines, None)
        while skipping and line is not None and not pattern.fullmatch(line):
            line = next(printed_lines, None)
        if line is None or not pattern.fullmatch(line):
            return f"shown: {expected!r}; printed: {line!r}"
        skipping = False
    rest = next(printed_lines, None)
    return None if skipping or rest is None else f"printed, but not shown: {rest!r}"
