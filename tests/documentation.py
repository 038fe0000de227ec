"""The documents: their pages, and the blocks of code in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {"Needs a network", "Needs GPUs", "Needs Slurm", "Needs several nodes", "Takes hours"}
"""Titles of blocks of commands that no test runs, because of what they need; all other commands are run."""

_FENCED = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]*)\")?([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    title: str
    """What the reader sees above it, if anything."""
    other: str
    """What else stands behind the fence."""
    text: str

    @property
    def name(self) -> str | None:
        """The file that the reader saves it as: its first line is `# NAME`."""
        found = re.match(r"# (\w+\.(?:yaml|py))\n", self.text)
        return found[1] if found else None

    @property
    def lines(self) -> list[str]:
        """The commands of a block of commands."""
        return re.sub(r" *\\\n *", " ", self.text).splitlines()

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command."""
        return [shlex.split(line) for line in self.lines if line]


def blocks(language: str) -> list[Block]:
    """Return the blocks of a language, in the order of the pages."""
    found = [
        Block(str(page.relative_to(ROOT)), *(group or "" for group in match.groups()[1:]))
        for page in PAGES
        for match in _FENCED.finditer(page.read_text(encoding="utf-8"))
    ]
    return [block for block in found if block.language == language]
