"""HTML by small functions that escape whatever is not HTML already, so that no path or class name can become markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_ASSETS = Path(__file__).resolve().parent / "report_assets"
_WORD_ENDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[_ /-])")
_VOID = {"img", "meta", "line", "rect", "circle", "path", "polyline", "source", "br"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Markup that shows `text`; `Html` passes as it is."""
    return text if isinstance(text, Html) else Html(html.escape(str(text), quote=True))


def join(parts: Iterable[str]) -> Html:
    """One after another, each escaped unless it is markup."""
    return Html("".join(escape(part) for part in parts))


def tag(element: str, /, *children: str, **attributes: str | float | None) -> Html:
    """An element. Attribute names: `class_` is class, `aria_label` is aria-label; None leaves the attribute out."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    opening = "".join(f' {name}="{html.escape(str(value), quote=True)}"' for name, value in named.items())
    if element in _VOID:
        return Html(f"<{element}{opening}>" if element in ("img", "meta", "source", "br") else f"<{element}{opening}/>")
    return Html(f"<{element}{opening}>{join(children)}</{element}>")


def prose(text: str) -> Html:
    """A sentence in which `backticks` mark code."""
    pieces = text.split("`") if not isinstance(text, Html) else []
    return join(tag("code", piece) if i % 2 else piece for i, piece in enumerate(pieces)) if pieces else escape(text)


def breakable(name: str) -> Html:
    """A name that may be broken where one of its words ends: BallBounce, ball_bounce."""
    return Html("<wbr>".join(escape(word) for word in _WORD_ENDS.split(name)))


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Iterable[int] = ()) -> Html:
    """A table that scrolls sideways by itself where the screen is narrow; `numeric` columns are right-aligned."""
    right = set(numeric)

    def cells(element: str, row: Sequence[str], scope: str | None = None) -> Html:
        return join(
            tag(element, cell, class_="number" if i in right else None, scope=scope) for i, cell in enumerate(row)
        )

    head = tag("thead", tag("tr", cells("th", header, "col")))
    body = tag("tbody", *[tag("tr", cells("td", row)) for row in rows])
    wide = "wide" if len(header) - len(right) >= 3 else None
    inner = tag("table", tag("caption", prose(caption)), head, body, class_=wide)
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def section(anchor: str, title: str, *children: str) -> Html:
    """A part of the page with a heading."""
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", heading, *children, id=anchor, aria_labelledby=f"{anchor}-title")


def figure(caption: str, *children: str) -> Html:
    """A picture or a chart with its caption."""
    return tag("figure", *children, tag("figcaption", caption))


def note(text: str, kind: str = "plain") -> Html:
    """A remark: `plain`, `good` or `warn`."""
    return tag("p", prose(text), class_=f"note {kind}")


def details(summary: str, *children: str) -> Html:
    """Something that is folded away until asked for."""
    return tag("details", tag("summary", summary), *children)


def page(title: str, header: str, sections: Sequence[Html], footer: str) -> str:
    """The whole document. Its content policy forbids scripts and anything from outside the file."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    links = []
    for part in sections:
        anchor = part.split('id="', 1)[1].split('"', 1)[0]
        name = part.split("<h2", 1)[1].split(">", 1)[1].split("</h2>", 1)[0]
        links.append(tag("a", Html(name), href=f"#{anchor}"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy, quote=True)}">'),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        Html(f"<style>\n{(_ASSETS / 'style.css').read_text(encoding='utf-8')}</style>"),
    )
    body = tag(
        "body",
        tag("header", Html(header), tag("nav", *links, aria_label="Sections")),
        tag("main", *sections),
        tag("footer", Html(footer)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
