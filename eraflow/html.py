"""The shell of a page that needs no network, and its parts: sections, tables, pairs, figures. Knows of no round.

Read `document`, then `table`. Every text is escaped unless it is `Markup`, no script runs, and a browser that follows
`POLICY` fetches nothing. Light, dark and print have their own colours; the charts' are in `svg`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from eraflow import svg
from eraflow.svg import DASH, Svg, palette

# A browser that follows it fetches nothing, whatever a text holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
LIGHT = svg.LIGHT | {"page": "#f5f7f9", "safe": "#00795c", "unsafe": "#b84a00", "bar": "#0072b2"}
DARK = svg.DARK | {"page": "#11161c", "safe": "#4cc9a5", "unsafe": "#ff9d5c", "bar": "#56b4e9"}
PRINT = svg.PRINT | {"page": "#fff", "safe": "#00513d", "unsafe": "#8a3600", "bar": "#0072b2"}
STYLE = f"""
:root {{ color-scheme: light dark; {palette(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {palette(DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }}
section, header {{ background: var(--sheet); border: 1px solid var(--rule); border-radius: 12px;
  padding: 1.25rem 1.5rem; margin: 0 0 1.25rem; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 0 0 .75rem; }}
h3 {{ font-size: 1rem; margin: 1.25rem 0 .5rem; }} p {{ margin: .4rem 0; }} .muted {{ color: var(--muted); }}
.safe {{ color: var(--safe); }} .unsafe, .late {{ color: var(--unsafe); }} .nothing {{ color: var(--muted); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .95rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; color: var(--muted); padding: 0 0 .4rem; }}
th, td {{ text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-top: 1px solid var(--rule); }}
thead th {{ border-top: 0; color: var(--muted); font-weight: 400; white-space: nowrap; }}
tbody th {{ font-weight: 600; }} td.number, th.number {{ text-align: right; white-space: nowrap; }}
table.pairs {{ width: auto; }} tbody th .muted {{ font-weight: 400; }}
th:last-child, td:last-child {{ padding-right: 0; }} table.files tbody th {{ white-space: nowrap; }}
table.close th, table.close td {{ padding-top: .2rem; padding-bottom: .2rem; font-size: .9rem; }}
.bar {{ display: block; width: 6rem; margin-top: .42rem; }}
.bar span {{ display: block; height: .7rem; border-radius: 2px; background: var(--bar); print-color-adjust: exact; }}
@media (max-width: 40rem) {{ .bar, tbody th .muted {{ display: none; }} }}
table.pairs th {{ font-weight: 400; color: var(--muted); }}
tr.more td {{ border-top: 0; padding-top: 0; }} tbody:first-child tr:first-child > * {{ border-top: 0; }}
tbody th {{ overflow-wrap: anywhere; min-width: 9rem; }} .wide + .wide {{ margin-top: 1.25rem; }}
code {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .875em; overflow-wrap: anywhere; }}
pre {{ margin: .75rem 0; padding: .75rem 1rem; border: 1px solid var(--rule); border-radius: 8px; overflow-x: auto; }}
.still {{ white-space: nowrap; }} figure {{ margin: 1rem 0; }} figcaption {{ font-weight: 600; }}
figcaption .muted {{ font-weight: 400; }} img {{ display: block; width: 100%; height: auto; margin: .75rem 0; }}
{svg.STYLE}
@media print {{ :root {{ color-scheme: light; {palette(PRINT)} }}
  body {{ max-width: none; padding: 0; font-size: 12px; }} section, header {{ border: 0; padding: .5rem 0; }}
  figure, tr, .wide, pre {{ break-inside: avoid; }} h2, h3, figcaption {{ break-after: avoid; }}
  .wide {{ overflow: visible; }} table, table.close th, table.close td {{ font-size: inherit; }}
  tbody th {{ min-width: 7rem; }} }}
"""


class Markup(str):
    """Text that is HTML already; everything else is escaped."""

    __slots__ = ()


class Number(Markup):
    """A cell that stands on the right."""

    __slots__ = ()


def document(title: str, parts: Iterable[Markup | None]) -> str:
    """The whole page; parts that are None are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def section(title: str, body: Markup | None) -> Markup | None:
    """A part of the page under its title; none without a body."""
    return None if body is None else Markup(f"<section>\n<h2>{escaped(title)}</h2>\n{body}\n</section>")


def joined(parts: Iterable[Markup | None]) -> Markup | None:
    """Those of the parts that are there, one beneath the other; None if none is."""
    kept = [part for part in parts if part]
    return Markup("\n".join(kept)) if kept else None


def paragraph(text: object, kind: str = "") -> Markup:
    """A paragraph; `kind` is its class."""
    return Markup(f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{cell(text)}</p>")


def figure(title: str, drawn: Svg, note: str = "") -> Markup:
    """A chart under its title; one that goes on from the chart above has none."""
    told = f' <span class="muted">{escaped(note)}</span>' if note else ""
    caption = f"<figcaption>{escaped(title)}{told}</figcaption>\n" if title else ""
    return Markup(f"<figure>\n{caption}{drawn}\n</figure>")


def preformatted(text: str) -> Markup:
    """Lines to copy as they are."""
    return Markup(f"<pre><code>{escaped(text)}</code></pre>")


def listed(texts: Iterable[object]) -> Markup:
    """A list."""
    return Markup("<ul>\n" + "\n".join(f"<li>{cell(text)}</li>" for text in texts) + "\n</ul>")


def pairs(rows: Iterable[tuple[str, object]]) -> Markup:
    """A table of names and what they are."""
    told = "\n".join(f'<tr><th scope="row">{escaped(name)}</th><td>{cell(value)}</td></tr>' for name, value in rows)
    return Markup(f'<div class="wide"><table class="pairs"><tbody>\n{told}\n</tbody></table></div>')


def table(
    headings: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str | None = None, kind: str = ""
) -> Markup:
    """A table whose first column names the row; a row that is `Markup` is put in as it is."""
    head = "".join(_data_cell(heading, "th scope=col") for heading in headings)
    body = "\n".join(row if isinstance(row, Markup) else _row(row) for row in rows)
    told = f"<caption>{escaped(caption)}</caption>" if caption else ""
    return Markup(
        f'<div class="wide"><table class="{kind}">{told}<thead><tr>{head}</tr></thead><tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def numeric(text: str) -> Number:
    """A cell that stands on the right."""
    return Number(escaped(text))


def bar(share: float) -> Markup:
    """A share from 0 to 1 as a bar; what it shows stands beside it in figures."""
    return Markup(f'<span class="bar" aria-hidden="true"><span style="width: {min(share, 1.0):.1%}"></span></span>')


def code(text: str | None) -> Markup:
    """In fixed width."""
    return Markup(f"<code>{escaped(text or DASH)}</code>")


def cell(value: object) -> str:
    """What a value is inside an element: `Markup` as it is, None an en dash, all else escaped."""
    if isinstance(value, Markup):
        return value
    return DASH if value is None else escaped(str(value))


def escaped(text: str) -> str:
    """`text` without a meaning of its own in HTML.

    >>> escaped("<b>")
    '&lt;b&gt;'
    """
    return escape(str(text), quote=True)


def _row(row: Sequence[object]) -> str:
    return f'<tr><th scope="row">{cell(row[0])}</th>{"".join(_data_cell(value) for value in row[1:])}</tr>'


def _data_cell(value: object, tag: str = "td") -> str:
    return f"<{tag}{' class=number' if isinstance(value, Number) else ''}>{cell(value)}</{tag[:2]}>"
