"""A browser without a window, which says what a page requested and complained of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


def found() -> tuple[str, str] | None:
    """The browser and its driver."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """A driver of selenium whose profile lies in a folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    places = found()
    assert places is not None
    options = webdriver.ChromeOptions()
    options.binary_location = places[0]
    for flag in (f"--user-data-dir={folder / 'profile'}", *FLAGS):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(places[1]))
    try:
        driver.get("about:blank")
        driver.get_log("performance")  # of the page of a new tab, which asks for much
        yield driver
    finally:
        driver.quit()


def look(driver: Any, width: int, height: int, *, scheme: str = "light", media: str = "") -> None:
    """Set the size of the page, the colours that its reader prefers, and whether it is printed."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features, "media": media})


def requests(driver: Any) -> list[str]:
    """What the page asked for since it was asked last, data in the page itself aside."""
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [own["params"]["request"]["url"] for own in entries if own["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith("data:")]


def complaints(driver: Any) -> list[str]:
    """Warnings and errors in the console."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
