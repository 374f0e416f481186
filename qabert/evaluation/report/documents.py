"""A document of sections, written as Markdown and as one self-contained HTML page.

Text in a document is plain: whatever it holds (HTML, Markdown, quotes, right-to-left script) is shown as it is.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

#: A table's cell: one text, or several that stand below each other.
Cell = str | tuple[str, ...]

# Controls, and marks that would change the direction of what follows them.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_NUMBER = re.compile(r"\[?[+−-]?\d[\d.,\s%±+−\]-]*|")


@dataclass(frozen=True)
class Paragraph:
    """One paragraph."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """A command, on one line."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first column names the rows."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers only."""
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.head)
        return [all(isinstance(cell, str) and bool(_NUMBER.fullmatch(cell)) for cell in column) for column in columns]


@dataclass(frozen=True)
class Figure:
    """A picture that stands as `.png` and `.svg` beside the document."""

    kind: ClassVar[str] = "figure"
    caption: str
    png: Path
    svg: Path

    @property
    def source(self) -> str:
        """The picture itself, as an address that needs no request."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.read_bytes()).decode("ascii")


Block = Paragraph | Bullets | Code | Table | Figure


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def plain(text: object) -> str:
    """Text from anywhere on one line, without what can't be shown: controls, direction marks, half surrogate pairs."""
    shown = str(text).encode("utf-8", "replace").decode("utf-8")
    return " ".join(_CONTROLS.sub(" ", shown).split())


def html_page(title: str, sections: Sequence[Section]) -> str:
    """The document as one HTML page, which asks for nothing from outside itself."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["plain"] = plain
    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(title=title, sections=sections) + "\n"


def markdown(title: str, sections: Sequence[Section], folder: Path) -> str:
    """The document as Markdown; its pictures are named by their places relative to `folder`."""
    parts = [f"# {markdown_text(title)}"]
    for number, section in enumerate(sections, 1):
        parts.append(f"## {number}. {markdown_text(section.title)}")
        parts += [_markdown_block(block, folder) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def markdown_text(text: object) -> str:
    r"""Plain text that Markdown shows as it is, on one line; right-to-left script is kept from its surroundings.

    Example:
        >>> markdown_text("a | <b> `c`")
        'a \\| &lt;b&gt; \\`c\\`'
    """
    shown = plain(text)
    escaped = re.sub(r"([\\`*\[\]|~$])", r"\\\1", shown)
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)  # inside a word it is no emphasis
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # What would start a list, a heading or a line across the page.
    escaped = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", re.sub(r"^(?=[#+-]+(\s|$)|=+$|[-_\s]+$)", r"\\", escaped))
    if any(unicodedata.bidirectional(sign) in ("R", "AL") for sign in shown):
        return f"\u2068{escaped}\u2069"
    return escaped


def _markdown_block(block: Block, folder: Path) -> str:
    if isinstance(block, Paragraph):
        return markdown_text(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {markdown_text(item)}" for item in block.items)
    if isinstance(block, Code):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
        return f"{fence}\n{plain(block.text)}\n{fence}"
    if isinstance(block, Figure):
        place = block.png.relative_to(folder).as_posix()
        return f"![{markdown_text(block.caption)}]({place})\n\n{markdown_text(block.caption)}"
    lines = [
        [markdown_text(head) for head in block.head],
        ["---:" if right else "---" for right in block.numeric],
        *([_markdown_cell(cell) for cell in row] for row in block.rows),
    ]
    return "\n".join([markdown_text(block.caption), "", *(f"| {' | '.join(line)} |" for line in lines)])


def _markdown_cell(cell: Cell) -> str:
    return markdown_text(cell) if isinstance(cell, str) else "<br>".join(map(markdown_text, cell))
