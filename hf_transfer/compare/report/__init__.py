"""The report of a comparison: a page, a text and their figures."""
