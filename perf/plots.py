"""Plots of rows as SVG files without dependencies: readable on light and on dark pages."""

import html
import math

COLOURS = ["#3b6fb6", "#d9822b", "#3a9a6c", "#b04a5a", "#7a5ba6", "#8a8a8a"]
TEXT = 'font-family="system-ui,sans-serif" fill="#888"'


def number(value):
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def save(path, width, height, parts):
    with open(path, "w", encoding="utf-8") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n')
        f.write("\n".join(parts))
        f.write("\n</svg>\n")


def bars(path, groups):
    """Panels of horizontal bars, two in a row; a group is (title, [(name, value)])."""
    panel, line, label, top = 440, 22, 140, 40
    rows = max(len(values) for _, values in groups)
    height = top + rows * line + 20
    parts = []
    for at, (title, values) in enumerate(groups):
        x0, y0 = (at % 2) * panel, (at // 2) * height
        highest = max((value for _, value in values), default=0) or 1
        parts.append(f'<text x="{x0 + 10}" y="{y0 + 24}" {TEXT} font-size="14" font-weight="600">{html.escape(title)}</text>')
        for place, (name, value) in enumerate(values):
            y = y0 + top + place * line
            width = (panel - label - 80) * value / highest
            parts.append(f'<text x="{x0 + label - 8}" y="{y + 14}" {TEXT} font-size="12" text-anchor="end">{html.escape(name)}</text>')
            parts.append(f'<rect x="{x0 + label}" y="{y + 2}" width="{width:.1f}" height="{line - 6}" fill="{COLOURS[0]}" rx="2"/>')
            parts.append(f'<text x="{x0 + label + width + 6:.1f}" y="{y + 14}" {TEXT} font-size="12">{number(value)}</text>')
    save(path, 2 * panel, height * ((len(groups) + 1) // 2), parts)


def lines(path, panels):
    """Panels of lines over a logarithmic axis, two in a row; a panel is (title, axis, {name: [(x, y)]})."""
    panel, height, left, bottom = 440, 280, 60, 50
    parts = []
    for at, (title, axis, series) in enumerate(panels):
        x0, y0 = (at % 2) * panel, (at // 2) * height
        points = [point for of in series.values() for point in of]
        low, high = min(x for x, _ in points), max(x for x, _ in points)
        top = max(y for _, y in points) * 1.1 or 1
        inner_width, inner_height = panel - left - 30, height - bottom - 50

        def place(x, y, x0=x0, y0=y0, low=low, high=high, top=top):
            share = math.log(x / low) / math.log(high / low) if high > low else 0.5
            return x0 + left + share * inner_width, y0 + 40 + inner_height * (1 - y / top)

        parts.append(f'<text x="{x0 + 10}" y="{y0 + 22}" {TEXT} font-size="14" font-weight="600">{html.escape(title)}</text>')
        for share in (0, 0.5, 1):
            _, y = place(low, top * share)
            parts.append(f'<line x1="{x0 + left}" x2="{x0 + panel - 30}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>')
            parts.append(f'<text x="{x0 + left - 6}" y="{y + 4:.1f}" {TEXT} font-size="11" text-anchor="end">{number(top * share)}</text>')
        for x in sorted({x for x, _ in points}):
            at_x, at_y = place(x, 0)
            parts.append(f'<text x="{at_x:.1f}" y="{at_y + 16:.1f}" {TEXT} font-size="11" text-anchor="middle">{x:,}</text>')
        parts.append(f'<text x="{x0 + left + inner_width / 2}" y="{y0 + height - 14}" {TEXT} font-size="12" text-anchor="middle">{html.escape(axis)}</text>')
        for which, (name, of) in enumerate(series.items()):
            colour = COLOURS[which % len(COLOURS)]
            path_points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in of))
            parts.append(f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in (place(*point) for point in of)]
            if len(series) > 1:
                parts.append(f'<text x="{x0 + left + 8 + 110 * which}" y="{y0 + 38}" fill="{colour}" font-family="system-ui,sans-serif" font-size="12">{html.escape(name)}</text>')
    save(path, 2 * panel, height * ((len(panels) + 1) // 2), parts)
