"""The report of a comparison: a page, a text and their figures."""

from hf_transfer.compare.report.writing import write_report


__all__ = ["write_report"]
