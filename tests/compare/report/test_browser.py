from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from hf_transfer.compare.report import write_report
from tests.compare.report import fakes
from tests.compare.report.browser import browser, complaints, found, look, requests


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(found() is None, reason="there is no Chromium with its driver"),
]
SIZES = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    pytest.importorskip("selenium")
    with browser(tmp_path_factory.mktemp("browser")) as own:
        yield own


@pytest.fixture(scope="module", params=["images", "texts"])
def url(request, tmp_path_factory) -> str:
    return write_report(fakes.ALL[request.param](), tmp_path_factory.mktemp(request.param)).as_uri()


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@pytest.mark.parametrize("size", SIZES)
def test_it_opens_without_a_complaint_and_without_a_request(driver, url, size, tmp_path):
    look(driver, *SIZES[size])
    assert isinstance(requests(driver) + complaints(driver), list)  # of pages before
    driver.get(url)
    assert requests(driver) == [url]
    assert complaints(driver) == []
    picture = driver.get_screenshot_as_png()
    (tmp_path / f"{size}.png").write_bytes(picture)
    seen = pixels(picture)
    assert seen.shape[:2] == SIZES[size][::-1]
    assert seen.reshape(-1, 3).mean() > 200  # light paper
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 100
    widths = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1] == SIZES[size][0]


def test_what_is_cut_off_can_be_scrolled_to(driver, url):
    look(driver, *SIZES["phone"])
    driver.get(url)
    out = driver.execute_script("""
        return [...document.querySelectorAll('main *')].filter(own => {
          if (own.closest('.scroll, .wide, svg, thead')) return false;
          const box = own.getBoundingClientRect();
          return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
        }).map(own => own.outerHTML.slice(0, 200))""")
    assert out == []


def test_letters_of_figures_can_be_read_on_a_phone(driver, url):
    look(driver, *SIZES["phone"])
    driver.get(url)
    heights = driver.execute_script("""
        return [...document.querySelectorAll('.drawing svg text')]
          .map(own => parseFloat(getComputedStyle(own).fontSize) * Math.hypot(own.getCTM().a, own.getCTM().b))""")
    assert heights and min(heights) >= 6.5, min(heights)


def test_by_night(driver, url, tmp_path):
    look(driver, *SIZES["desk"], scheme="dark")
    driver.get(url)
    picture = driver.get_screenshot_as_png()
    (tmp_path / "night.png").write_bytes(picture)
    assert pixels(picture).mean() < 70


def test_on_paper(driver, url, tmp_path):
    look(driver, 700, 1000, scheme="dark", media="print")  # as wide as A4
    driver.get(url)
    assert pixels(driver.get_screenshot_as_png()).mean() > 200  # not a dark page even by night
    heads = """
        const own = document.querySelectorAll('#strategies thead, details table, details pre');
        return [...own].map(own => own.offsetHeight)"""
    assert min(driver.execute_script(heads)) > 10  # a table and no cards, and nothing folded
    hidden = "return getComputedStyle(document.querySelector('nav')).display"
    assert driver.execute_script(hidden) == "none"
    (tmp_path / "report.pdf").write_bytes(paper := base64.b64decode(driver.print_page()))
    assert paper.startswith(b"%PDF")
    assert len(paper) > 50_000


def test_texts_of_the_data_do_nothing(driver, url):
    look(driver, *SIZES["desk"])
    driver.get(url)
    assert driver.execute_script("return document.scripts.length") == 0
    if "texts" not in url:
        return
    quotes = driver.execute_script("return [...document.querySelectorAll('blockquote')].map(own => own.innerText)")
    assert quotes[0] == fakes.SCRIPT
    sides = driver.execute_script(
        "return [...document.querySelectorAll('blockquote')].map(own => getComputedStyle(own).direction)"
    )
    assert sides[:3] == ["ltr", "rtl", "ltr"]
