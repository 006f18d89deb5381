"""
The documentation, as tests read it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

PAGES = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SEPARATOR = re.compile(r"\|\|?|&&?|;")
_ASSIGNMENT = re.compile(r"\w+=")


def prose(page: Path) -> str:
    """
    @return: a page without its blocks of code.
    """
    return _FENCED.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """
    @return: what is marked as code in the prose of a page.
    """
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def blocks(page: Path, language: str) -> list[str]:
    """
    @return: the blocks of code in a language.
    """
    return [block for _, name, block in _FENCED.findall(page.read_text()) if name == language]


def commands(page: Path) -> Iterator[list[str]]:
    """
    @return: the words of each command that is to be typed, those of a pipeline by
        themselves, without variables that are set for one.
    """
    for block in blocks(page, "console"):
        text = block.replace("\\\n", " ")
        for line in re.findall(r"^ *\$ (.+)$", text, re.MULTILINE):
            yield from simple_commands(line)


def simple_commands(line: str) -> Iterator[list[str]]:
    """
    @return: the words of each command in a line.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if _SEPARATOR.fullmatch(word):
            while words and _ASSIGNMENT.match(words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(word)
