"""Firefox through WebDriver BiDi, which it speaks by itself: Debian has no geckodriver.

Beside that it is Marionette that needs none, but its scripts run in a sandbox around the page and not in the
page: what they assign to a variable of the page's, the page does not see. BiDi also has the console.

- *Tabs.* A tab behind another one is hidden, and a new window takes half a second. So a window is kept for
  each tab that was ever open at once, and a new tab opens in one that has none of ours.
- *Cookies and caches* belong to a user context (to Firefox, a container), so each test has one of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import websocket

from tests.browser.driver import FOCUS, WINDOW, Browser, ConsoleEntry, NotInstalledError, ScriptError

#: Quiet, and off the network.
PREFERENCES = {
    "app.update.enabled": False,
    "browser.chrome.site_icons": False,
    "browser.newtabpage.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.disable_beforeunload": True,
    "extensions.getAddons.cache.enabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.http.speculative-parallel-limit": 0,
    "services.settings.server": "http://127.0.0.1:9/",
    "toolkit.telemetry.enabled": False,
}

LEVELS = {"error": "SEVERE", "warn": "WARNING"}

#: What BiDi does not tell from errors that scripts throw.
NOT_THROWN = {
    "Content-Security-Policy": "security",
    "Firefox can’t establish a connection": "network",
    "The connection to": "network",
}

# The value of a function, as JSON. A promise is not waited for where scripts are off: it would never be kept.
VALUE = "JSON.stringify({}, (_, value) => value instanceof Node ? `<${{value.nodeName}}>` : value)"

NO_SCRIPTS = """
for (const { gBrowser } of Services.wm.getEnumerator("navigator:browser"))
    gBrowser.selectedBrowser.browsingContext.allowJavascript = false;
"""

AIM = """
const e = document.querySelector(arguments[0]);
if (!e) throw Error("there is no " + arguments[0]);
e.scrollIntoView({ block: "nearest", behavior: "instant" });
"""


class Firefox(Browser):
    """Firefox ESR, headless."""

    name = "firefox"
    keeps_pages = False
    replaces_cut_documents = True

    def __init__(self, *, scripts: bool = True) -> None:
        binary = shutil.which("firefox-esr") or shutil.which("firefox")
        if binary is None:
            raise NotInstalledError("firefox is not installed (Debian: firefox-esr)")
        self._scripts = scripts
        self._profile = Path(tempfile.mkdtemp(prefix="afterload-firefox-"))
        lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in PREFERENCES.items()]
        (self._profile / "user.js").write_text("".join(lines))
        width, height = WINDOW
        self._process = subprocess.Popen(
            [
                binary,
                "--headless",
                "--no-remote",
                "--remote-debugging-port=0",
                "--remote-allow-system-access",
                "--profile",
                str(self._profile),
            ],
            env={**os.environ, "MOZ_HEADLESS_WIDTH": str(width), "MOZ_HEADLESS_HEIGHT": str(height)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._last = 0
        self._entries: list[ConsoleEntry] = []
        # the empty tab that keeps a window -> the tab of a test that is shown in it
        self._windows: dict[str, str | None] = {}
        self._users: list[str] = []
        try:
            self._socket = websocket.create_connection(self._address(), timeout=30, suppress_origin=True)
            self._call("session.new", capabilities={})
            self._call("session.subscribe", events=["log.entryAdded"])
            [self._chrome, *_] = self._call("browsingContext.getTree", **{"moz:scope": "chrome"})["contexts"]
            [home, *_] = self._call("browsingContext.getTree")["contexts"]
            self._windows[home["context"]] = None
            self.forget()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def new_tab(self) -> str:
        window = next((home for home, tab in self._windows.items() if tab is None), None)
        if window is None:
            window = self._call("browsingContext.create", type="window")["context"]
        created = self._call(
            "browsingContext.create", type="tab", referenceContext=window, userContext=self._users[-1]
        )
        tab = str(created["context"])
        self._windows[window] = tab
        if not self._scripts:
            self._evaluate(self._chrome["context"], NO_SCRIPTS)
        return tab

    def close_tab(self, tab: str) -> None:
        self._hear(tab)
        self._call("browsingContext.close", context=tab)
        self._windows = {home: None if shown == tab else shown for home, shown in self._windows.items()}

    def goto(self, tab: str, url: str) -> None:
        self._call("browsingContext.navigate", context=tab, url=url, wait="none")

    def history(self, tab: str, action: str) -> None:
        if action == "refresh":
            self._call("browsingContext.reload", context=tab, wait="none")
        else:
            delta = {"back": -1, "forward": 1}[action]
            self._call("browsingContext.traverseHistory", context=tab, delta=delta)

    def run(self, tab: str, script: str, *arguments: Any) -> Any:
        function = f"(function () {{{script}\n}}).apply(window, {json.dumps(arguments)})"
        if self._scripts:
            expression = f"(async () => {VALUE.format('await ' + function)})()"
        else:
            expression = VALUE.format(function)
        value = self._evaluate(tab, expression)
        return json.loads(value.get("value", "null"))

    def click(self, tab: str, selector: str) -> None:
        self.run(tab, AIM, selector)
        element = self._evaluate(tab, f"document.querySelector({json.dumps(selector)})")
        origin = {"type": "element", "element": {"sharedId": element["sharedId"]}}
        self._act(
            tab,
            "pointer",
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        )

    def type(self, tab: str, selector: str, text: str) -> None:
        self.run(tab, FOCUS, selector)
        keys = [{"type": type_, "value": key} for key in text for type_ in ("keyDown", "keyUp")]
        self._act(tab, "key", *keys)

    def resize(self, tab: str, width: int, height: int) -> None:
        size = {"width": width, "height": height}
        self._call("browsingContext.setViewport", context=tab, viewport=size)

    def png(self, tab: str) -> bytes:
        return b64decode(self._call("browsingContext.captureScreenshot", context=tab)["data"])

    def offline(self, tab: str, offline: bool) -> None:
        conditions = {"type": "offline"} if offline else None
        self._call("emulation.setNetworkConditions", contexts=[tab], networkConditions=conditions)

    def console(self) -> list[ConsoleEntry]:
        for tab in self._windows.values():
            if tab is not None:
                self._hear(tab)
        found, self._entries = self._entries, []
        return found

    def forget(self) -> None:
        new = self._call("browser.createUserContext")["userContext"]
        for user in self._users:
            self._call("browser.removeUserContext", userContext=user)
        self._users = [new]

    def quit(self) -> None:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            self._call("browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _address(self) -> str:
        """Where it listens, which it writes into its profile."""
        file = self._profile / "WebDriverBiDiServer.json"
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not there, or only begun
                server = json.loads(file.read_text())
                return f"ws://{server['ws_host']}:{server['ws_port']}/session"
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"firefox did not start (exit status {self._process.poll()})")
            time.sleep(0.02)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("method") == "log.entryAdded":
                self._entries.append(entry(message["params"]))
            elif message.get("id") == self._last:
                if message["type"] == "error":
                    raise BidiError(message["error"], message["message"])
                result: dict[str, Any] = message["result"]
                return result

    def _evaluate(self, context: str, expression: str) -> dict[str, Any]:
        try:
            answer = self._call(
                "script.evaluate", expression=expression, target={"context": context}, awaitPromise=True
            )
        except BidiError as error:
            if error.kind == "no such frame":
                raise  # the tab is gone: asking again would not help
            raise ScriptError(str(error)) from None
        if answer["type"] == "exception":
            raise ScriptError(answer["exceptionDetails"]["text"])
        result: dict[str, Any] = answer["result"]
        return result

    def _act(self, tab: str, kind: str, *actions: dict[str, Any]) -> None:
        source = {"type": kind, "id": kind, "actions": list(actions)}
        self._call("input.performActions", context=tab, actions=[source])

    def _hear(self, tab: str) -> None:
        """Have all that was logged in a tab until now: it comes before the answer to a later question."""
        with contextlib.suppress(ScriptError):
            self._evaluate(tab, "0")


class BidiError(Exception):
    """What Firefox refused to do."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def entry(logged: dict[str, Any]) -> ConsoleEntry:
    """A console entry from a ``log.entryAdded``."""
    text = logged["text"] or ""
    source = "console-api" if logged["type"] == "console" else logged["type"]
    for beginning, kind in NOT_THROWN.items():
        if text.startswith(beginning):
            source = kind
    return ConsoleEntry(LEVELS.get(logged["level"], "INFO"), source, text)
