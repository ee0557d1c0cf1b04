"""The files of a report."""

from __future__ import annotations

import os
from pathlib import Path

from hf_transfer.compare.outcome import ComparisonResults
from hf_transfer.compare.report.page import page
from hf_transfer.compare.report.text import text
from hf_transfer.files import whole_file


PAGE, TEXT = "report.html", "report.md"

__all__ = ["PAGE", "TEXT", "write_report"]


def write_report(results: ComparisonResults, folder: str | os.PathLike[str]) -> Path:
    """
    Write `report.html` and `report.md` into a folder. They say what `results.json` says, without the tokens and
    folders of the user that this leaves out.

    Args:
        results (`ComparisonResults`): of a comparison.
        folder (`str` or path): is made if there is none.

    Returns:
        `Path`: of the page.

    Raises:
        ImportError: if Jinja is not installed.
    """
    stored = ComparisonResults.from_json(results.to_json())
    for name, content in ((TEXT, text(stored)), (PAGE, page(stored))):
        with whole_file(Path(folder) / name) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
    return Path(folder) / PAGE
