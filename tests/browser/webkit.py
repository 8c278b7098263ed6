"""WebKitGTK: its MiniBrowser through WebKitWebDriver, on an X server of its own.

- *Tabs.* A tab behind another one is hidden, so each tab of ours is a window. There is no window manager: none
  covers another one, and all have the focus.
- *The toolbar* makes a window wider than a phone; a style sheet makes its parts small.
- *Cookies.* The driver knows those of a tab's page only, so they are deleted when a tab is closed. A browser
  under automation keeps nothing on disk.
- *The console* is not in the driver, and is not printed for a session that is never stored. But the browser has
  a remote inspector, which speaks WebSocket when it is told a port. It numbers what can be inspected as it
  comes: the window of the start, the session of the driver, and then our windows. Its list of them is not
  kept up to date, so we count.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import urllib.request
from base64 import b64decode
from http.client import HTTPException
from pathlib import Path
from typing import Any

import websocket
from selenium import webdriver
from selenium.webdriver.remote.client_config import ClientConfig
from selenium.webdriver.remote.remote_connection import RemoteConnection
from urllib3.exceptions import ReadTimeoutError

from tests.browser.driver import FOCUS, ConsoleEntry, NotInstalledError, ScriptError
from tests.browser.webdriver import Selenium
from tests.servers.process import free_port

#: Seconds that the driver has for a command, and for a script: one that it is asked to run at the very moment in which
#: another page comes, it may never answer.
PATIENCE, ANSWER = 60, 5

LEVELS = {"error": "SEVERE", "warning": "WARNING"}

SMALL = "* { padding: 0; margin: 0; min-width: 0; font-size: 1px; }"


class WebKit(Selenium):
    """WebKitGTK's MiniBrowser."""

    name = "webkit"
    keeps_pages = True
    replaces_cut_documents = True
    kind = "window"

    def __init__(self, *, scripts: bool = True) -> None:
        browsers = sorted(glob.glob("/usr/lib/*/webkit2gtk-4.*/MiniBrowser"))
        driver, xvfb = shutil.which("WebKitWebDriver"), shutil.which("Xvfb")
        if not browsers or driver is None or xvfb is None:
            raise NotInstalledError(
                "MiniBrowser, WebKitWebDriver or Xvfb is not installed (Debian: webkit2gtk-driver, xvfb)"
            )
        self._home = Path(tempfile.mkdtemp(prefix="afterload-webkit-"))
        (self._home / "gtk-3.0").mkdir()
        (self._home / "gtk-3.0/gtk.css").write_text(SMALL)
        self._inspector = free_port()
        self._inspectors: dict[str, Inspector] = {}
        self._entries: list[ConsoleEntry] = []
        self._number = 2
        self._processes: list[subprocess.Popen[bytes]] = []
        self._service: webdriver.WebKitGTKService | None = None
        try:
            environment = {
                **os.environ,
                "DISPLAY": self._display(xvfb),
                "GTK_A11Y": "none",
                "LIBGL_ALWAYS_SOFTWARE": "1",
                "NO_AT_BRIDGE": "1",
                "WEBKIT_INSPECTOR_HTTP_SERVER": f"127.0.0.1:{self._inspector}",
                "XDG_CONFIG_HOME": str(self._home),
            }
            arguments = ["--automation", "--enable-developer-extras=true"]
            if not scripts:
                arguments.append("--enable-javascript=false")
            browser = self._start([browsers[-1], *arguments], env=environment)
            options = webdriver.WebKitGTKOptions()
            options.page_load_strategy = "none"
            target = f"127.0.0.1:{self._automation(browser)}"
            self._service = webdriver.WebKitGTKService(driver, service_args=["-t", target])
            self._service.start()
            # As webdriver.WebKitGTK, which warns of how it does this by itself.
            self._client = ClientConfig(remote_server_addr=self._service.service_url, timeout=PATIENCE)
            self.begin(webdriver.Remote(RemoteConnection(client_config=self._client), options=options))
            self.driver.execute("setTimeouts", {"script": None})  # else each script sets a timer in the page
        except BaseException:
            self._end()
            raise

    def new_tab(self) -> str:
        tab = super().new_tab()
        self._number += 1
        self._inspectors[tab] = Inspector(self._inspector, self._number)
        return tab

    def close_tab(self, tab: str) -> None:
        self.use(tab)
        self.driver.delete_all_cookies()
        inspector = self._inspectors.pop(tab)
        self._entries += inspector.entries()
        inspector.close()
        super().close_tab(tab)

    def run(self, tab: str, script: str, *arguments: Any) -> Any:
        if tab in self._inspectors:
            self._inspectors[tab].listen()
        self._client.timeout = ANSWER
        try:
            return super().run(tab, script, *arguments)
        except ReadTimeoutError:
            raise ScriptError(f"no answer within {ANSWER} s") from None
        finally:
            self._client.timeout = PATIENCE

    def type(self, tab: str, selector: str, text: str) -> None:
        self.run(tab, FOCUS, selector)  # by itself the driver would select what is there
        super().type(tab, selector, text)

    def resize(self, tab: str, width: int, height: int) -> None:
        self.use(tab)
        bars = self.run(tab, "return [outerWidth - innerWidth, outerHeight - innerHeight]")
        self.driver.set_window_rect(0, 0, width + bars[0], height + bars[1])
        deadline = time.monotonic() + 10
        while (size := self.run(tab, "return [innerWidth, innerHeight]")) != [width, height]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the window became {size}, not {[width, height]}")
            time.sleep(0.01)

    def png(self, tab: str) -> bytes:
        # The driver's own waits until the page is loaded.
        [width, height] = self.run(tab, "return [innerWidth, innerHeight]")
        shot = self._inspectors[tab].call(
            "Page.snapshotRect", x=0, y=0, width=width, height=height, coordinateSystem="Viewport"
        )
        return b64decode(shot["dataURL"].partition(",")[2])

    def offline(self, tab: str, offline: bool) -> None:
        """Nothing: it asks the system, and a test cannot take that off the network."""

    def console(self) -> list[ConsoleEntry]:
        for inspector in self._inspectors.values():
            self._entries += inspector.entries()
        found, self._entries = self._entries, []
        return found

    def forget(self) -> None:
        """Nothing is left to be done: see above."""

    def quit(self) -> None:
        for inspector in self._inspectors.values():
            inspector.close()
        super().quit()
        self._end()

    def _start(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
        self._processes.append(process)
        return process

    def _end(self) -> None:
        if self._service is not None:
            self._service.stop()
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    def _display(self, xvfb: str) -> str:
        """An X server of our own, which chooses its number."""
        ours, its = os.pipe()
        screen = ["-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
        self._start([xvfb, "-displayfd", str(its), *screen], pass_fds=[its])
        os.close(its)
        with os.fdopen(ours) as pipe:
            return f":{pipe.readline().strip()}"

    def _automation(self, browser: subprocess.Popen[bytes]) -> int:
        """The port that it listens on for a driver, which it chooses by itself."""
        deadline = time.monotonic() + 30
        while not self._has_window():  # it listens before, but does not answer a driver then
            if browser.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MiniBrowser did not start (exit status {browser.poll()})")
            time.sleep(0.02)
        [port] = listening(browser.pid) - {self._inspector}
        return port

    def _has_window(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._inspector}/", timeout=5) as listed:
                return b"/socket/1/1/WebPage" in listed.read()
        except (OSError, HTTPException):
            return False


class Inspector:
    """The console of one window.

    A navigation may bring another process, which is a further target; the console is enabled in each, and then
    tells what it has kept until then.
    """

    def __init__(self, port: int, number: int) -> None:
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}/socket/1/{number}/WebPage", timeout=10, suppress_origin=True
        )
        self._targets: list[str] = []
        self._entries: list[ConsoleEntry] = []
        self._latest: ConsoleEntry | None = None
        self._calls = 0
        self._answers: dict[int, dict[str, Any]] = {}
        while not self._targets:
            self._receive()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the page that is shown, and wait for the answer."""
        while True:
            target = self._targets[-1]
            call = self._ask(target, method, **parameters)
            while call not in self._answers and target in self._targets:
                self._receive()
            if answer := self._answers.pop(call, None):
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def entries(self) -> list[ConsoleEntry]:
        """What was logged since the last call."""
        self.call("Console.enable")  # its answer comes after all that was logged before
        found, self._entries = self._entries, []
        return found

    def listen(self) -> None:
        """Take what has come, without waiting."""
        while select.select([self._socket], [], [], 0)[0]:
            self._receive()

    def close(self) -> None:
        self._socket.close()

    def _ask(self, target: str, method: str, **parameters: Any) -> int:
        self._calls += 1
        inner = json.dumps({"id": self._calls, "method": method, "params": parameters})
        outer = {"targetId": target, "message": inner}
        self._socket.send(json.dumps({"id": 0, "method": "Target.sendMessageToTarget", "params": outer}))
        return self._calls

    def _receive(self) -> None:
        message = json.loads(self._socket.recv())
        parameters = message.get("params", {})
        match message.get("method"):
            case "Target.targetCreated":
                self._targets.append(parameters["targetInfo"]["targetId"])
                self._ask(self._targets[-1], "Console.enable")
            case "Target.targetDestroyed":
                self._targets = [target for target in self._targets if target != parameters["targetId"]]
            case "Target.dispatchMessageFromTarget":
                self._take(json.loads(parameters["message"]))

    def _take(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case None:
                self._answers[message["id"]] = message
            case "Console.messageAdded":
                logged = message["params"]["message"]
                more = [p.get("value", p.get("description")) for p in logged.get("parameters", [])[1:]]
                text = " ".join(str(part) for part in [logged.get("text", ""), *more])
                level = LEVELS.get(logged["level"], "INFO")
                # Said of a request that its page has left, too, and whether or not a script has caught it.
                source = "network" if text.startswith("Fetch API cannot load") else logged["source"]
                self._latest = ConsoleEntry(level, source, text)
                self._entries.append(self._latest)
            case "Console.messageRepeatCountUpdated" if self._latest is not None:
                self._entries.append(self._latest)


def listening(pid: int) -> set[int]:
    """The TCP ports that a process listens on."""
    sockets = set()
    for descriptor in glob.glob(f"/proc/{pid}/fd/*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                sockets.add(found[1])
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(line[1].split(":")[1], 16) for line in lines if line[3] == "0A" and line[9] in sockets}
