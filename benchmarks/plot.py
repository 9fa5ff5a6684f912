"""Bar charts as SVG, from the tables that the benchmarks print: nothing to install, and small enough to keep."""

from collections.abc import Sequence
from html import escape
from typing import Final

WIDTH: Final = 760
LABELS: Final = 330  # of the width
ROW: Final = 22  # the height of a bar and the space below it
TOP: Final = 34
FIGURES: Final = 90  # of the width, behind the longest bar


def bars(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A chart with a bar for each of *rows*, a name and its figure as the table shows it; empty without figures.

    The bars of Pulse are darker. Its colours suit light and dark pages.
    """
    shown = [(name, figure, number) for name, figure in rows if (number := _number(figure)) is not None]
    most = max((number for *_, number in shown), default=0.0)
    if not most:
        return ""
    height = TOP + ROW * len(shown) + 6
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        '<g font-family="sans-serif" font-size="12" fill="#808080">',
        f"<title>{escape(title)}</title>",
        f'<text x="4" y="20" font-size="14">{escape(title)}</text>',
    ]
    for place, (name, figure, number) in enumerate(shown):
        y = TOP + ROW * place
        length = (WIDTH - LABELS - FIGURES) * number / most
        colour = "#2a6fb0" if name.startswith("Pulse") else "#a9b7c6"
        lines += [
            f'<text x="{LABELS - 6}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABELS}" y="{y + 1}" width="{max(length, 1):.1f}" height="{ROW - 6}" fill="{colour}"/>',
            f'<text x="{LABELS + length + 5:.1f}" y="{y + 13}">{escape(figure)}</text>',
        ]
    return "\n".join([*lines, "</g>", "</svg>", ""])


def _number(figure: str) -> float | None:
    try:
        return float(figure.replace(",", ""))
    except ValueError:  # a way whose peer is not installed, or that has no such figure
        return None
