"""What these tests import anyway, before the Trainer collects garbage at every start."""

from __future__ import annotations

import gc
import importlib


for _name in ("datasets", "pyarrow.compute", "torch._dynamo"):
    importlib.import_module(_name)
gc.collect()
gc.freeze()
