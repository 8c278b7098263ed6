"""What the browsers have in common that selenium drives."""

from __future__ import annotations

from typing import Any

from selenium.common.exceptions import InvalidSessionIdException, NoSuchWindowException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tests.browser.driver import Browser, ScriptError


class Selenium(Browser):
    """A browser behind a WebDriver."""

    driver: WebDriver
    #: A browser without tabs ends, so this one stays and is never used.
    home: str

    #: What a new tab is to WebDriver: "tab", or "window" where the other tabs of a window are hidden.
    kind = "tab"

    def begin(self, driver: WebDriver) -> None:
        """Take over a session that has just begun."""
        self.driver = driver
        self.driver.set_script_timeout(30)
        self.home = self._current = self.driver.current_window_handle

    def new_tab(self) -> str:
        self.use(self.home)
        self.driver.switch_to.new_window(self.kind)
        self._current = self.driver.current_window_handle
        return self._current

    def close_tab(self, tab: str) -> None:
        self.use(tab)
        self.driver.close()
        self.use(self.home)

    def goto(self, tab: str, url: str) -> None:
        self.use(tab)
        self.driver.get(url)

    def history(self, tab: str, action: str) -> None:
        self.use(tab)
        {"back": self.driver.back, "forward": self.driver.forward, "refresh": self.driver.refresh}[action]()

    def run(self, tab: str, script: str, *arguments: Any) -> Any:
        self.use(tab)
        try:
            return self.driver.execute_script(script, *arguments)
        except (InvalidSessionIdException, NoSuchWindowException):
            raise  # the tab is gone: asking again would not help
        except WebDriverException as error:
            raise ScriptError(error.msg) from None

    def click(self, tab: str, selector: str) -> None:
        self.use(tab)
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def type(self, tab: str, selector: str, text: str) -> None:
        self.use(tab)
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(text)

    def png(self, tab: str) -> bytes:
        self.use(tab)
        return self.driver.get_screenshot_as_png()

    def quit(self) -> None:
        self.driver.quit()

    def use(self, tab: str) -> None:
        """Make a tab the one that the driver's commands are for."""
        if tab != self._current:
            self.driver.switch_to.window(tab)
            self._current = tab
