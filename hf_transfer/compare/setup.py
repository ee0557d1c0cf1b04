"""What a strategy is given for one run: rows, fresh models, features computed once, the arguments of its loop."""

from __future__ import annotations
