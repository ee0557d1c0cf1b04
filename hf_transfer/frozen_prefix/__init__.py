"""The frozen-prefix cache: what frozen blocks compute is stored once, and later steps start at the block above."""

from __future__ import annotations
