"""The page of the docs that tells what was measured, made of what the drivers have kept."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.lab import RESULTS, Row, table

PAGE = Path(__file__).parent.parent.parent / "docs" / "explanation" / "benchmarks.md"

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
"""What stands between them is written by `make bench`; the rest of the page by hand."""

TITLES = {
    "drain-postgresql": "Drain, on PostgreSQL",
    "drain-sqlite": "Drain, on SQLite",
    "latency": "Latency",
    "save-postgresql": "save()",
    "growth": "Growth",
    "memory": "Memory",
    "end_to_end": "End to end, against peers",
}
"""In the order of the page."""


@dataclass(frozen=True)
class Kept:
    title: str
    rows: Sequence[Row]
    machine: str
    note: str


def write_page() -> Path:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    found = list(read())
    promised = [row for each in found for row in each.rows if row.must is not None]
    parts = [chart(promised)]
    for each in found:
        parts += [f"### {each.title}", table(each.rows)]
        parts.append(f"{each.note}\n\n{each.machine}.".strip())
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")
    return PAGE


def read() -> Iterator[Kept]:
    for name, title in TITLES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            kept = json.loads(path.read_text())
            rows = [Row(**each) for each in kept["rows"]]
            yield Kept(title, rows, kept["machine"], kept["note"])


# The chart: how far each is from what is required, on a logarithmic scale

WIDTH, LABEL, LINE, MOST = 860, 470, 20, 16
"""`MOST` times better or worse than required is the end of the scale."""


def chart(rows: Sequence[Row]) -> str:
    """Bars to the right of the line are better than required, to the left worse."""
    height = LINE * (len(rows) + 2)
    half = (WIDTH - LABEL) / 2
    middle = LABEL + half
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="11" fill="currentColor">',
        "<title>How many times better or worse than required</title>",
    ]
    for times in (1 / MOST, 1 / 4, 1, 4, MOST):
        x = middle + half * _place(times)
        text = "required" if times == 1 else f"{times:g} ×" if times > 1 else f"1/{1 / times:g}"
        lines.append(
            f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{LINE}" y2="{height - LINE / 2:.0f}" '
            f'stroke="currentColor" stroke-opacity="{0.8 if times == 1 else 0.2}"/>'
        )
        anchor = "end" if times == MOST else "middle"
        lines.append(f'<text x="{x:.0f}" y="{LINE - 6}" text-anchor="{anchor}">{text}</text>')
    for number, row in enumerate(rows, 1):
        lines += _bar(row, LINE * number, middle, half)
    return "\n".join([*lines, "</svg>"])


def _bar(row: Row, y: float, middle: float, half: float) -> list[str]:
    assert row.must is not None
    value = max(row.value, 1e-9)
    times = (row.must or 1e-9) / value if row.less else value / row.must
    length = half * _place(times)
    color = "#2a7f4f" if row.is_reached else "#b3372f"
    return [
        f'<text x="{middle - half - 8:.0f}" y="{y + 14:.0f}" text-anchor="end">'
        f"{_escaped(row.what)}</text>",
        f'<rect x="{min(middle, middle + length):.1f}" y="{y + 4:.0f}" '
        f'width="{max(abs(length), 1):.1f}" height="{LINE - 8}" fill="{color}">'
        f"<title>{row.value:.3g}, required {_escaped(row.required)}</title></rect>",
    ]


def _place(times: float) -> float:
    """From -1 to 1."""
    return max(-1, min(1, math.log(times) / math.log(MOST)))


def _escaped(text: str) -> str:
    text = text.replace("`", "").replace("…, ", "")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
