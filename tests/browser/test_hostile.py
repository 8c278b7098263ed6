"""Values that try to get out of every place that a value can land in: shown as what they are, or refused; none runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.documents_app import BAD, PLACES, hostile
from tests.browser.driver import Page
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

MADE, REFUSED = hostile()
SURROGATE = "lone\ud800surrogate"
# What an element shows of its place, in this order.
LOOK = r"""
const looks = {
  into: ({ firstChild: b }) => (b.title.replace("\ufffd", "") === b.textContent ? b.title : null),
  attr: (e) => e.getAttribute("data-x"),
  href: (e) => e.getAttribute("href"),
  style: (e) => e.getAttribute("style"),
  class: (e) => e.className,
  value: (e) => e.value,
};
return arguments[0].map((id) => {
  const e = document.getElementById(id);
  return (looks[id.replace(/\d+$/, "")] ?? ((e) => e.textContent))(e);
});
"""
IDS = [patch.target[1:] for patch in MADE if patch.target]


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    return module_servers.gunicorn("tests.browser.documents_app:app")


def value_of(name: str) -> str:
    place = name.rstrip("0123456789")
    return BAD[int(name[len(place) :])]


def comparable(text: Any) -> Any:
    # Inside of HTML a browser drops NUL, or shows U+FFFD for it.
    return text.replace("\0", "").replace("\ufffd", "") if isinstance(text, str) else text


def assert_harmless(page: Page) -> None:
    shown = dict(zip(IDS, page.run(LOOK, IDS), strict=True))
    assert {name: comparable(seen) for name, seen in shown.items()} == {
        name: comparable(value_of(name)) for name in IDS
    }
    assert page.eval("window.owned") is None
    assert page.eval("document.querySelectorAll('img, svg:not([data-af])').length") == 0
    titles = [patch.content for patch in MADE if patch.action == "title"]
    assert page.eval("document.title") == " ".join(titles[-1].split())
    # Nor does any of them when it is clicked on.
    page.run("for (const a of document.querySelectorAll('a')) { a.target = 'none'; a.focus(); }")
    assert page.eval("window.owned") is None


def test_what_is_refused_is_what_cannot_be_shown_or_would_run() -> None:
    assert set(REFUSED["onclick"]) == set(REFUSED["srcdoc"]) == set(BAD)
    assert "javascript:window.owned=1" in REFUSED["href"]
    assert "javascript:window.owned=1" in REFUSED["navigate"]
    for place in PLACES:
        assert SURROGATE in REFUSED[place]
    free = set(PLACES) - {"onclick", "srcdoc", "href", "navigate", "class"}
    assert {place: REFUSED[place] for place in free} == {place: [SURROGATE] for place in free}


@pytest.mark.parametrize("wire", ["page", "document"])
def test_by_stream_and_by_document(server: Server, page: Page, wire: str) -> None:
    page.goto(f"{server.url}/hostile/{wire}")
    page.wait_for_status("failed")
    assert_harmless(page)
    last = [bad for bad in BAD if bad != SURROGATE and (bad.isprintable() or "\u2028" in bad)][-1]
    assert page.text("#message") == last
    # The error's text is the program's own business.
    assert page.eval("document.documentElement.outerHTML.includes('ValueError')") is False


def test_by_streamed_template(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/hostile/template")
    page.wait_for_status("failed")
    assert_harmless(page)
    assert page.eval("document.querySelector('#tail')") is None


def test_where_no_scripts_run(server: Server, scriptless_page: Page) -> None:
    scriptless_page.goto(f"{server.url}/hostile/document")
    scriptless_page.wait_for("document.querySelector('#tail')")
    scriptless_page.wait_for("document.readyState === 'complete'")
    assert scriptless_page.eval("window.owned") is None
    assert scriptless_page.eval("document.querySelectorAll('img, svg:not([data-af])').length") == 0
    assert scriptless_page.eval("document.querySelectorAll('script').length") == 1
    # Nothing that was said stands behind its place, as a text beside the page's own.
    beside = scriptless_page.eval(
        "[...document.body.childNodes].filter(n => n.nodeType === 3 && n.data.trim()).map(n => n.data)"
    )
    assert beside == []
    texts = [name for name in IDS if name.startswith(("text", "html", "append"))]
    shown = scriptless_page.run(SHOWN + "return arguments[0].map(shown)", texts)
    assert [comparable(seen) for seen in shown] == [comparable(value_of(name)) for name in texts]


# What a reader sees of an element, be it there or said by a style sheet.
SHOWN = r"""
const said = (e, where) => {
  const content = getComputedStyle(e, where).content;
  return /^"/.test(content) ? content.slice(1, -1).replace(/\\(["\\])/g, "$1") : "";
};
const shown = (id) => {
  const e = document.getElementById(id), style = getComputedStyle(e);
  const hidden = style.overflow === "clip" && style.display.endsWith("grid") || style.fontSize === "0px";
  return said(e, "::before") + (hidden ? "" : e.textContent) + said(e, "::after");
};
"""
