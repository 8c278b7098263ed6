"""docs/how-to/nginx.md: real nginx, once with nothing but `proxy_pass`, and once as recommended."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.browser.chromium import Chromium
from tests.browser.driver import Browser, NotInstalledError
from tests.browser.driver import Page as Tab
from tests.deploy.nginx import start_nginx
from tests.deploy.pod import Pod, Running
from tests.deploy.shop import APP, STREAM, TLS, Page, make_shop, order, reload, service, wait_app
from tests.docs.markdown import ROOT, Fence, fences
from tests.handover.raw import Raw, get

HOW_TO = ROOT / "docs" / "how-to" / "nginx.md"


def _block(section: str, language: str = "nginx") -> Fence:
    [found] = [f for f in fences(HOW_TO) if (f.section, f.language) == (section, language)]
    return found


def default(more: str = "") -> str:
    """What stands in the how-to, in a file of which everything else is nginx's default."""
    return f"events {{}}\nhttp {{ {more} server {{ listen 80;\n{_block('As it is').text} }} }}"


def recommended() -> str:
    return _block("Recommended").text


def websockets() -> str:
    """The same without HTTP/2, and with what lets a WebSocket through."""
    return f"events {{}}\nhttp {{\n{_block('Without HTTP/2').text}}}"


@dataclass
class Site:
    """The shop behind nginx."""

    pod: Pod
    app: Running
    port: int

    def follow(self) -> Page:
        return Page(self.pod, self.port)

    def order(self, thing: str) -> str:
        return order(self.pod, thing, self.port)


def start(pod: Pod, configuration: str, *, env: dict[str, str] | None = None, app: str = "") -> Site:
    port = TLS if "listen 443" in configuration else 80
    shop = make_shop(pod.folder / "shop", "gunicorn.conf.py")
    if app:
        (shop / "app.py").write_text(app)
    running = wait_app(pod, service("shop.service", shop, pod.folder, env=env).start(pod))
    start_nginx(pod, configuration, port)
    return Site(pod, running, port)


CONFIGURATIONS = {"default": default, "recommended": recommended, "websockets": websockets}


@pytest.fixture(params=CONFIGURATIONS)
def site(request: pytest.FixtureRequest, make_pod: Callable[..., Pod]) -> Site:
    return start(make_pod(80, TLS, APP), CONFIGURATIONS[request.param]())


def test_each_block_arrives_before_there_is_a_next_one(site: Site) -> None:
    page = site.follow()
    for number in range(3):
        site.order(f"thing-{number}")
        page.wait_order(f"thing-{number}")
    assert page.orders() == ["thing-0", "thing-1", "thing-2"]
    page.wait_loop()


def test_the_stream_says_to_nginx_that_it_is_not_to_be_kept_back(site: Site) -> None:
    assert b"\r\nX-Accel-Buffering: no" in Page(site.pod).raw.head
    head = site.follow().raw.head
    assert b"x-accel-buffering" not in head.lower()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nCache-Control: no-store, no-transform" in head


def test_a_restart_of_the_app_beneath_it_is_not_noticed_by_its_pages(site: Site) -> None:
    pages = [site.follow() for _ in range(3)]
    site.order("thing-0")
    for round_ in range(1, 3):
        reload(site.app)
        site.order(f"thing-{round_}")
        for page in pages:
            page.wait_order(f"thing-{round_}")
    assert [page.orders() for page in pages] == [["thing-0", "thing-1", "thing-2"]] * 3


@pytest.mark.parametrize(
    ("name", "version"), [("default", "1.0"), ("recommended", "1.1"), ("websockets", "1.1")]
)
def test_nginx_asks_the_app_in_a_version_of_http(
    name: str, version: str, make_pod: Callable[..., Pod]
) -> None:
    env = {"GUNICORN_CMD_ARGS": "--access-logfile -"}
    site = start(make_pod(80, TLS, APP), CONFIGURATIONS[name](), env=env)
    site.follow()
    assert b" 200 " in get(site.pod.where(site.port), "/kitchen", tls=site.port == TLS).head
    site.app.wait_log(rf'"GET /kitchen HTTP/{version}" 200')


def test_compression_keeps_no_block_back(make_pod: Callable[..., Pod]) -> None:
    compressed = default("gzip on; gzip_http_version 1.0; gzip_types text/event-stream;")
    site = start(make_pod(80, APP), compressed)
    headers = {**STREAM, "Accept-Encoding": "gzip"}
    raw = site.pod.keep(Raw(site.pod.where(80)))
    raw.ask("/", version="HTTP/1.0", headers=headers)  # 1.0, so that it comes without chunks
    raw.until(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip" in raw.head
    inflate = zlib.decompressobj(wbits=31)
    seen, new = b"", raw.body
    for number in range(3):
        site.order(f"thing-{number}")
        while f"thing-{number}".encode() not in (seen := seen + inflate.decompress(new)):
            new = raw.sock.recv(65536)
            assert new, "the stream has ended"
        new = b""


SILENT = """
from flask import Flask
from afterload.flask import Live

app = Flask(__name__)
live = Live(app, namespace="shop", heartbeat=HEARTBEAT)


@app.get("/")
def index():
    return live.page("board.html", "nobody publishes to it", board={}, stations=[])


@app.post("/")
def order():
    raise NotImplementedError
"""


@pytest.mark.parametrize("heartbeat", [0.5, 60])
def test_a_silent_page_stays_open_where_its_heart_beats_faster_than_nginx_loses_patience(
    heartbeat: float, make_pod: Callable[..., Pod]
) -> None:
    patience = 3  # seconds; nginx's own default is 60 s, and ours 20
    app = SILENT.replace("HEARTBEAT", str(heartbeat))
    page = start(make_pod(80, APP), default(f"proxy_read_timeout {patience}s;"), app=app).follow()
    if heartbeat > patience:
        assert b"event: ping" not in page.raw.rest()
        return
    began, beats = time.monotonic(), 0
    while time.monotonic() < began + 1.5 * patience:
        beats += 1
        page.raw.until(b"event: ping", beats)


# In a browser


class Trusting(Chromium):
    """It takes the shop's certificate for a good one."""

    FLAGS = (*Chromium.FLAGS, "--ignore-certificate-errors")


@pytest.fixture(scope="module", params=["chromium"])
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """One browser is enough: what is tried here is nginx."""
    try:
        found = Trusting()
    except NotInstalledError as reason:
        pytest.skip(str(reason))
    yield found
    found.quit()


PROTOCOLS = {"default": "http/1.1", "recommended": "h2", "websockets": "http/1.1"}
WIRES = {"default": "stream", "recommended": "stream", "websockets": "websocket"}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_pages_in_a_browser_follow_through_nginx_and_do_not_notice_a_deploy(
    name: str, make_pod: Callable[..., Pod], open_page: Callable[[], Tab]
) -> None:
    site = start(make_pod(80, TLS, APP), CONFIGURATIONS[name]())
    host, port = site.pod.where(site.port)
    tls = site.port == TLS
    # Over HTTP/1.1 a browser has six connections for all pages of a host, and here one is left for other requests.
    pages = [open_page() for _ in range(5 if name == "default" else 10)]
    for page in pages:
        page.goto(f"{'https' if tls else 'http'}://{host}:{port}/")
    for page in pages:
        page.wait_for_status("live")
        assert page.eval("performance.getEntriesByType('navigation')[0].nextHopProtocol") == PROTOCOLS[name]
        assert page.eval("afterload.wire") == WIRES[name]
        page.run("document.addEventListener('live:status', (e) => (window.noticed = e.detail))")
    reload(site.app)
    site.order("thing-0")
    for page in pages:
        page.wait_for_text("#bar", "thing-0")
        page.wait_for_status("live")
        assert page.eval("window.noticed === undefined")
