from __future__ import annotations

import dataclasses
import re
import sys
from functools import cache

import pytest

from hf_transfer.compare.outcome import Mistake
from hf_transfer.compare.report import page as page_module
from hf_transfer.compare.report import words, write_report
from hf_transfer.compare.report.page import badges, confused, page, safe_pictures
from tests.compare.report import fakes
from tests.compare.report.parsed import Element, parsed


COSTS = list(words.COSTS)


@cache
def made(name: str) -> tuple[str, Element]:
    text = page(fakes.ALL[name]())
    return text, parsed(text)


def shown(cell: Element) -> tuple[float | None, ...]:
    ends = (cell.get(f"data-{name}") for name in ("value", "low", "high"))
    return tuple(None if end is None else float(end) for end in ends)


def estimated(estimate) -> tuple[float | None, ...]:
    return (estimate.mean, estimate.low, estimate.high)


@pytest.fixture(params=sorted(fakes.ALL))
def name(request) -> str:
    return request.param


def test_every_figure_of_the_table_is_that_of_the_results(name):
    results, root = fakes.ALL[name](), made(name)[1]
    lines = root.all("table", id="strategies")[0].all("tr", data_status=None)
    told = {(line.get("data-model"), line.get("data-strategy")): line for line in lines}
    assert list(told) == [(row.model, row.strategy) for row in results.answer.rows]
    assert len(told) == len(lines)
    for row, line in zip(results.answer.rows, lines, strict=True):
        assert line.get("data-status") == row.status
        cells = {cell.get("data-field"): cell for cell in line.all("td", data_field=None)}
        if row.status != "finished":
            assert list(cells) == ["reason"]
            assert cells["reason"].text == row.reason
            continue
        expected = {part: getattr(row, part) for part in ("validation", "test", "against_best")}
        expected = {part: estimated(value) for part, value in expected.items() if value is not None}
        costs = {cost: getattr(row.costs, cost) for cost in COSTS}
        expected |= {cost: (value, None, None) for cost, value in costs.items() if value is not None}
        assert {part: shown(cell) for part, cell in cells.items()} == expected
        assert cells["validation"].text.startswith(f"{row.validation.mean:.3f}".replace("-", "−"))


def test_curve_classes_and_confusions_are_those_of_the_results(name):
    results, root = fakes.ALL[name](), made(name)[1]
    lines = [line for table in root.all("table", id="curve") for line in table.all("tr", data_share=None)]
    assert [shown(line.all("td", data_field="score")[0]) for line in lines] == [
        estimated(point.score) for point in results.answer.curve
    ]
    assert [float(line.all("td", data_field="rows")[0].get("data-value") or -1) for line in lines] == [
        point.rows for point in results.answer.curve
    ]
    lines = root.all("tr", data_class=None)
    assert [line.get("data-class") for line in lines] == [own.label for own in results.answer.verdict.classes]
    for line, own in zip(lines, results.answer.verdict.classes, strict=True):
        assert shown(line.all("td", data_field="difference")[0]) == estimated(own.difference)
        assert words.VERDICTS[own.verdict][1] in line.text
    if results.confusion:
        off = sum(map(sum, results.confusion)) - sum(line[n] for n, line in enumerate(results.confusion))
        tables = root.all("table", id="confused")
        assert bool(tables) == bool(off)
        for truth, taken, number in confused(results):
            found = results.confusion[results.label_names.index(truth)][results.label_names.index(taken)]
            assert found == number
    else:
        assert not root.all(id="figure-confusion")


def test_the_answer_comes_first():
    results, root = fakes.images(), made("images")[1]
    answer = root.all("section")[0]
    assert answer.get("id") == "answer"
    assert answer.all("h2")[0].text.startswith("LoRA")
    assert results.answer.recommendation is not None
    assert results.answer.recommendation.reason in answer.text
    assert "Transfer helps" in answer.text and "▲" in answer.text  # a word and a sign, and not a colour alone
    best = results.best()
    assert best is not None and best.validation is not None
    tiles = {own.get("data-tile"): float(own.get("data-value") or -1) for own in answer.all("dd")}
    assert tiles["validation"] == best.validation.mean
    assert {key: tiles[key] for key in COSTS} == {key: getattr(best.costs, key) for key in COSTS}
    assert "Test rows took no part in any choice" in root.text


@pytest.mark.parametrize(("name", "said"), [("texts", "Transfer hurts"), ("regression", "Undecided")])
def test_other_verdicts(name, said):
    answer = made(name)[1].all("section")[0]
    assert said in answer.text
    assert answer.all("div", **{"class": "verdict " + ("negative" if name == "texts" else "undecided")})


def test_without_a_recommendation():
    root = made("regression")[1]
    assert "No strategy can be recommended" in root.all("section")[0].text
    assert not root.all(id="winner") and not root.all(id="figure-features")
    results = fakes.regression()
    results.answer = dataclasses.replace(results.answer, rows=[fakes.failed("m", "full")])
    assert "No run was finished" in page(results)


def test_badges():
    results = fakes.images()
    told = {(row.model, row.strategy): [badge for _, badge in badges(results, row)] for row in results.answer.rows}
    first, second = dict.fromkeys(row.model for row in results.answer.rows)
    assert told[first, "lora"] == ["recommended"]
    assert told[first, "full"] == ["best mean, tied"]
    assert told[first, "gradual"] == ["tied with the best"]
    assert told[first, "majority"] == ["baseline"]
    assert told[first, "lp_ft"] == ["failed"]
    assert told[second, "gradual"] == ["skipped"]
    assert told[second, "probe"] == []


def test_texts_of_the_data_are_only_text():
    text, root = made("texts")
    assert not root.all("script") and "<script" not in text
    assert not [own for own in root.all("img") if own.get("onerror")]
    assert not [key for own in root.all() for key in own.attributes if key.startswith("on")]
    quotes = [own.text for own in root.all("blockquote")]
    assert quotes[:3] == [fakes.SCRIPT, fakes.ARABIC, fakes.EMOJI]
    assert quotes[-1] == '"><img src=x onerror=alert(1)>'
    assert all(own.get("dir") == "auto" for own in root.all("blockquote"))
    assert fakes.SCRIPT in root.all("section")[0].text
    assert all(own.text for own in root.all("text")) and "$x_1$ &amp; more" in text  # no formula in a figure


def test_nothing_is_fetched(name):
    text, root = made(name)
    policy = root.all("meta", http_equiv="Content-Security-Policy")[0].get("content") or ""
    assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy
    for own in root.all():
        for key in ("src", "href", "xlink:href", "action", "data"):
            value = own.get(key) or "#"
            link = own.tag == "a" and value.startswith("https://huggingface.co/papers/")
            assert value.startswith(("#", "data:image/", "data:,")) or link, (own.tag, key, value)
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text.encode()) < 2_000_000


def test_links_are_only_to_pages(monkeypatch):
    monkeypatch.setattr(page_module, "_figures", lambda results: {})
    results = fakes.images()
    results.strategies = {**results.strategies, "lora": {"title": "LoRA", "paper": "javascript:alert(1)"}}
    assert "javascript:" not in page(results)


def test_it_can_be_read_aloud(name):
    root = made(name)[1]
    assert root.all("html")[0].get("lang") == "en"
    assert "width=device-width" in (root.all("meta", name="viewport")[0].get("content") or "")
    levels = [int(own.tag[1]) for own in root.all() if re.fullmatch("h[1-6]", own.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(own.get("scope") for own in root.all("th"))
    assert all(own.get("alt") for own in root.all("img"))
    drawings = root.all("div", role="img")
    assert all(own.get("aria-label") and len(own.all("svg")) == 1 for own in drawings)
    ids = [own.get("id") for own in root.all(id=None)]
    assert len(ids) == len(set(ids))
    named = [own.get("aria-labelledby") for own in root.all(aria_labelledby=None)]
    named += [(own.get("href") or "#")[1:] for own in root.all("a") if (own.get("href") or "").startswith("#")]
    assert set(named) <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", made(name)[0])) <= set(ids)


def test_colours_can_be_told_apart():
    css = (page_module.HERE / "page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in css.split("prefers-color-scheme: dark"))
    pairs = [("ink", "paper"), ("ink", "card"), ("ink", "soft"), ("muted", "card"), ("muted", "paper")]
    pairs += [
        ("muted", "soft"),
        ("link", "paper"),
        ("link", "card"),
        ("accent", "accent-soft"),
        ("muted", "accent-soft"),
    ]
    pairs += [(own, f"{own}-soft") for own in ("good", "bad", "open")]
    pairs += [("ink", f"{own}-soft") for own in ("good", "bad", "open", "accent")]
    for colours in (light, dark):
        for above, below in pairs:
            assert contrast(colours[above], colours[below]) >= 4.5, (above, below, colours)
        for number in range(7):  # points and lines need less
            if colours is light or number > 1:
                assert contrast(colours[f"series-{number}"], colours["card"]) >= 3, number


def contrast(one: str, other: str) -> float:
    """Of the guidelines for accessible content of the web."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_pictures_that_are_none_or_too_many(monkeypatch):
    good = Mistake(0, "a", "b", 0.9, None, fakes.picture())
    found = safe_pictures([good, dataclasses.replace(good, image="https://example.org/a.png")])
    assert found == [(good, good.image)]
    both = dataclasses.replace(good, image="data:text/html;base64,AAAA", text="said")
    assert safe_pictures([both]) == [(both, None)]
    monkeypatch.setattr(page_module, "PICTURES", 2 * len(good.image or "") + 1)
    assert [image is not None for _, image in safe_pictures([good] * 3)] == [True, True]


def test_no_mistake_at_all():
    root = made("two_classes")[1]
    assert "it made no mistake" in root.all("section", id="winner")[0].text
    assert not root.all(id="overview")  # of a single model there is nothing to overlook


def test_every_row_can_be_run_again(name):
    results, root = fakes.ALL[name](), made(name)[1]
    told = {(own.get("data-model"), own.get("data-strategy")): own.text for own in root.all("code", data_model=None)}
    assert told == {(row.model, row.strategy): row.command for row in results.answer.rows}


def test_the_files_say_what_the_json_says(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "_figures", lambda results: {})
    results = fakes.regression()
    results.command = "run --hub_token hf_abcdefghijklmnopqrstuvwxyz"
    path = write_report(results, tmp_path / "new")
    assert path == tmp_path / "new" / "report.html"
    assert sorted(own.name for own in path.parent.iterdir()) == ["report.html", "report.md"]
    for own in path.parent.iterdir():
        assert "hf_abc" not in own.read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8") == page(type(results).from_json(results.to_json()))


def test_the_same_page_each_time():
    assert page(fakes.two_classes()) == made("two_classes")[0]


def test_without_matplotlib(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(page_module.logger, "warning", said.append)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    root = parsed(page(fakes.two_classes()))
    assert "The report has no figures" in said[0]
    assert not root.all("svg") and root.all("table", id="strategies")


def test_without_jinja(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        ImportError, match="`jinja2` is not installed: there would be no report.html. Run `pip install"
    ):
        page(fakes.images())


def test_the_template_is_in_the_package():
    text = (page_module.HERE.parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"compare/report/{own}"' in text for own in ("page.css", "page.html.jinja"))
