"""The results of a run as bars, in SVG."""

from html import escape
from statistics import median

BAR, GAP, LEFT, WIDE = 14, 4, 190, 420
COLORS = ["#2a6f97", "#c8963e", "#7a9e7e", "#a45c5c", "#8d80ad"]


def chart(result):
    """A group of bars for each model and piece of work, as long as tokens/s beside the fastest."""
    parts, y = [], 10
    for name, found in result["models"].items():
        for work, engines in found["tokens_per_s"].items():
            speeds = {e: median(v) for e, v in engines.items()}
            parts.append(text(4, y + BAR - 3, f"{name} {work}"))
            for number, (engine, speed) in enumerate(speeds.items()):
                long = WIDE * speed / max(speeds.values())
                color = COLORS[number % len(COLORS)]
                place = f'x="{LEFT}" y="{y}" width="{long:.1f}" height="{BAR}"'
                parts.append(f'<rect {place} fill="{color}"/>')
                parts.append(text(LEFT + long + 5, y + BAR - 3, f"{engine} {speed:.1f}"))
                y += BAR + 1
            y += GAP
    size = f'width="{LEFT + WIDE + 160}" height="{y + 10}"'
    style = 'font-family="sans-serif" font-size="11"'
    inside = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{inside}\n</svg>\n'


def text(x, y, what):
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y}">{escape(what)}</text>'
