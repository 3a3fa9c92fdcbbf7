"""Pages served and opened in a real browser: Chromium without a window, and a watch on what it asks for."""

import shutil
import time
from contextlib import contextmanager

import pytest

from script_modules import load_script

served = load_script("benchmarks/page").served


@contextmanager
def chromium():
    """A headless browser; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """An open page: what it printed and asked for, and the few things tests do on it."""

    def __init__(self, browser, address, **context):
        self.page = browser.new_context(accept_downloads=True, **context).new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def said(self, name):
        """A number the page keeps about itself, or None."""
        return self.page.evaluate(f"document.documentElement.dataset[{name!r}] ?? null")

    def wait_for(self, condition, seconds=30):
        """Poll, since the page's security policy forbids `wait_for_function`."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s; complaints: {self.complaints}"
            time.sleep(0.02)

    def ask(self, *files):
        """Choose files and wait for all answers."""
        before = int(self.said("asked") or 0)
        self.page.set_input_files("#file", [str(file) for file in files])
        self.wait_for(lambda: int(self.said("asked") or 0) > before)

    def csv(self):
        with self.page.expect_download() as download:
            self.page.click("#csv")
        return download.value.path().read_bytes().decode()
