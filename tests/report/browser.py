"""A real headless Chromium that opens reports from file:// addresses."""

import json
import shutil
import time
from pathlib import Path

import pytest

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --window-size=1400,900"
)


class Page:
    """A report in the browser. Everything that is asserted is what the page shows, not what its scripts think."""

    def __init__(self):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not chromium or not driver:
            pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in FLAGS.split():
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.driver.set_page_load_timeout(60)
        self.driver.set_script_timeout(60)

    def open(self, file: Path, address: str = "") -> float:
        """Returns the seconds until the page is ready. What the console said of an earlier page is forgotten."""
        self.driver.get("about:blank")
        self.complaints(), self.requests()
        started = time.perf_counter()
        self.driver.get(f"file://{file}{address}")
        self.wait("return document.body.dataset.ready === 'yes'", 60)
        return time.perf_counter() - started

    def run(self, script: str, *arguments):
        """What the script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, seconds: float = 10) -> float:
        """Until the script returns something true; the seconds that took."""
        started = time.perf_counter()
        while not self.run(script):
            assert time.perf_counter() - started < seconds, f"not true after {seconds} s: {script}"
            time.sleep(0.02)
        return time.perf_counter() - started

    def text(self, selector: str) -> str:
        """Of the first such element, as it is seen."""
        return self.run("return document.querySelector(arguments[0])?.innerText ?? null", selector)

    def count(self, selector: str) -> int:
        return self.run("return document.querySelectorAll(arguments[0]).length", selector)

    def press(self, *keys: str) -> None:
        """On the keyboard, wherever the focus is."""
        from selenium.webdriver import ActionChains

        chain = ActionChains(self.driver, duration=0)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def fill(self, field: str, value: str) -> None:
        """A filter, as typing or choosing does it."""
        self.run(
            "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
            "for (const e of ['input', 'change']) f.dispatchEvent(new Event(e, {bubbles: true}))",
            field,
            value,
        )

    def complaints(self) -> list[str]:
        """What the console says since the last call: errors, warnings, refusals of the content policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> set[str]:
        """Addresses asked for since the last call, besides what the page holds itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
        return {url for url in asked if not url.startswith(("data:", "about:", "blob:"))}

    def close(self) -> None:
        self.driver.quit()
