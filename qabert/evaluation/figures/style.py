"""How figures look, how names from data become labels, and how a figure becomes files.

Drawn with matplotlib's objects alone: no pyplot, whose state is global, and nothing of the user's own style file.
matplotlib is an extra (`pip install 'qabert[report]'`) and is imported where it is used.
"""

from __future__ import annotations

import functools
import io
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from qabert.errors import InputError
from qabert.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

WIDTH = 7.0  # inches: a page's text width, so that a point here is about a point in print
FONT_SIZE = 9.0  # points; 8.1 where a page leaves 6.3 inches
PNG_DPI = 150
#: Okabe and Ito's colours without their yellow, which is lost on white; safe for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
# In grey print shape and stroke tell series apart.  As 7 and 8 have no common factor, 56 series differ.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 1)))
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "++++", "||||")  # no dots: each is a path of its own in an SVG
#: Fonts asked in this order for a glyph; those that the machine lacks are left out.
FONTS = (
    "DejaVu Sans", "Noto Sans", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai",
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "Microsoft YaHei", "Malgun Gothic",
    "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS", "Noto Emoji", "Noto Sans Symbols",
    "Noto Sans Symbols 2", "Segoe UI Symbol", "Segoe UI Emoji", "Apple Symbols",
)  # fmt: skip
_JOINERS = "\u200c\u200d"  # invisible, but words and emoji fall apart without them


def require_matplotlib() -> Any:
    """matplotlib, or an error that says how to get it.

    Raises:
        InputError: It isn't installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib, which isn't installed: pip install 'qabert[report]'") from None
    return matplotlib


@contextmanager
def figure_style() -> Iterator[None]:
    """Our settings while something is drawn; the caller's come back afterwards."""
    matplotlib = require_matplotlib()
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "font.sans-serif": [name for name in FONTS if name in installed],
            "font.size": FONT_SIZE, "axes.labelsize": FONT_SIZE, "axes.titlesize": FONT_SIZE,
            "xtick.labelsize": FONT_SIZE, "ytick.labelsize": FONT_SIZE, "legend.fontsize": FONT_SIZE,
            "figure.titlesize": FONT_SIZE + 1,
            "text.parse_math": False,  # a `$` in a name is a dollar
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
            "grid.color": "0.9", "legend.frameon": False, "lines.linewidth": 1.4, "lines.markersize": 5,
            "hatch.linewidth": 0.6,
            # Text that can be searched and read aloud, and the same bytes for the same figure.
            "svg.fonttype": "none", "svg.hashsalt": "qabert",
        })  # fmt: skip
        # One box instead of a sign is seen in the picture; a warning for each sign of each label would bury the rest.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function that draws in `figure_style`."""

    @functools.wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> R:
        with figure_style():
            return function(*args, **kwargs)

    return draw


def new_figure(title: str, height: float) -> Figure:
    """An empty figure of the page's width, `height` inches high, whose layout leaves nothing cut."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(textwrap.fill(title, 80), x=0.01, ha="left")
    return figure


def series(number: int) -> dict[str, Any]:
    """Colour, marker and line of the series of that number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend under the axes, in as many columns as have room."""
    longest = max(map(cells, names))
    one_line = sum(map(cells, names)) + 7 * len(names) <= 92
    columns = len(names) if one_line else max(1, 88 // (longest + 7))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def note(axes: Axes, text: str) -> None:
    """A remark in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")


def cells(text: str) -> int:
    """Width of a text in letters: a Chinese sign or an emoji counts two, an accent that is set on a letter none."""
    return sum(_cell(sign) for sign in text)


def _cell(sign: str) -> int:
    if sign in _JOINERS or unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def shorten(text: object, width: int = 24) -> str:
    """A name from data as one line of at most `width` letters; a longer one keeps both its ends, around `…`.

    Line ends, control signs and marks that turn the writing direction become blanks.

    Example:
        >>> shorten("a name that goes on for ever", 12)
        'a name…ever'
    """
    kept = "".join(sign if sign.isprintable() or sign in _JOINERS else " " for sign in str(text))
    line = " ".join(kept.split())
    if not line.strip(_JOINERS):
        return "(blank)"
    if cells(line) <= width:
        return line
    tail = width // 3
    start = _take(line, width - 1 - tail).rstrip(_JOINERS + " ")
    end = _take(line[::-1], tail)[::-1].lstrip()
    while end and not _cell(end[0]):  # an accent without its letter
        end = end[1:]
    return f"{start}…{end}"


def _take(signs: str, width: int) -> str:
    for number, sign in enumerate(signs):
        width -= _cell(sign)
        if width < 0:
            return signs[:number]
    return signs


def short_names(names: Sequence[object], width: int = 24) -> list[str]:
    """`shorten` for several names; those that would become alike get their number."""
    short = [shorten(name, width) for name in names]
    return [
        f"{shorten(name, width - 5)} #{number}" if short.count(own) > 1 else own
        for number, (name, own) in enumerate(zip(names, short, strict=True), 1)
    ]


def rows_text(labels: ArrayLike) -> str:
    """How many rows there are."""
    count = np.size(np.asarray(labels))
    return f"{count:,} row{'' if count == 1 else 's'}"


def count_text(count: int) -> str:
    """A count of at most five letters."""
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.3g}M"


@styled
def lay_out(figure: Figure) -> None:
    """Find the place of everything, and keep it: laid out anew at every drawing, a figure would move a little."""
    figure.set_dpi(PNG_DPI)
    for _ in range(2):  # the first one can change the ticks, and with them the room that they need
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


@styled
def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as `name.png` (150 dots an inch) and `name.svg` (text as text, the same bytes every time).

    Both are drawn before either is written, and each is whole or absent: written beside its place and renamed.

    Raises:
        OSError: The folder can't be written (`files.check_place` tells beforehand).
    """
    if figure.get_layout_engine() is not None:
        lay_out(figure)
    drawn = {}
    for kind, metadata in (("png", {}), ("svg", {"Date": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=PNG_DPI, metadata=metadata)
        drawn[Path(folder) / f"{name}.{kind}"] = buffer.getvalue()
    for path, content in drawn.items():
        with whole_file(path, binary=True) as file:
            file.write(content)
    return list(drawn)
