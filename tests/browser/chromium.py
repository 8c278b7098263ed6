"""Chromium through chromedriver."""

from __future__ import annotations

import shutil
from typing import Any

from selenium import webdriver

from tests.browser.driver import WINDOW, ConsoleEntry, NotInstalledError
from tests.browser.webdriver import Selenium


class Chromium(Selenium):
    """Chromium through chromedriver."""

    name = "chromium"
    keeps_pages = True
    replaces_cut_documents = False

    #: No sandbox, as tests may run as root in a container; the rest keeps it quiet and off the network.
    FLAGS = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--window-size={WINDOW[0]},{WINDOW[1]}",
    )

    def __init__(self, *, scripts: bool = True) -> None:
        paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
        if None in paths:
            raise NotInstalledError(
                "chromium or chromedriver is not installed (Debian: chromium, chromium-driver)"
            )
        binary, driver = map(str, paths)
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        options.page_load_strategy = "none"
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in self.FLAGS:
            options.add_argument(flag)
        self._scripts = scripts
        self._chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.begin(self._chrome)

    def new_tab(self) -> str:
        tab = super().new_tab()
        if not self._scripts:
            self._cdp(tab, "Emulation.setScriptExecutionDisabled", value=True)
        return tab

    def resize(self, tab: str, width: int, height: int) -> None:
        self._cdp(
            tab,
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def offline(self, tab: str, offline: bool) -> None:
        self._cdp(tab, "Network.enable")
        self._cdp(
            tab,
            "Network.emulateNetworkConditions",
            offline=offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    def console(self) -> list[ConsoleEntry]:
        return [
            ConsoleEntry(entry["level"], entry["source"], entry["message"])
            for entry in self._chrome.get_log("browser")
        ]

    def forget(self) -> None:
        # A browser context per test would be the thorough way; chromedriver does not allow making one.
        for command in ("Network.clearBrowserCookies", "Network.clearBrowserCache"):
            self._cdp(self.home, command)

    def _cdp(self, tab: str, command: str, **parameters: Any) -> Any:
        self.use(tab)
        return self._chrome.execute_cdp_cmd(command, parameters)
