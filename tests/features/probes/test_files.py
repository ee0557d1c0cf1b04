"""A probe from the disk is the probe that was saved, or it is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from hf_transfer.features import fit_probe, load_probe
from tests.features.probes.data import blobs, several, values


PROBES = {
    "logistic": lambda: fit_probe(*blobs(), label_names=["a", "b", "c"], strengths=[0.1, 1.0]),
    "ridge": lambda: fit_probe(*values(), kind="ridge", intercept=False),
    "nearest_class_mean": lambda: fit_probe(*blobs(), kind="nearest_class_mean"),
    "knn": lambda: fit_probe(*several(), kind="knn"),
    "mlp": lambda: fit_probe(*values(), kind="mlp", epochs=2),
}


@pytest.mark.parametrize("kind", PROBES)
def test_what_is_loaded_is_what_was_saved(kind, tmp_path):
    probe = PROBES[kind]()
    probe.save(tmp_path / "new" / "probe")
    loaded = load_probe(tmp_path / "new" / "probe")
    for name in ("strength", "rows", "kind", "task", "label_names", "column", "classes"):
        assert getattr(loaded, name) == getattr(probe, name), name
    assert dict(loaded.scores) == dict(probe.scores) and dict(loaded.settings) == dict(probe.settings)
    rows = np.random.default_rng(5).standard_normal((7, 5))
    assert np.array_equal(loaded.logits(rows), probe.logits(rows))
    assert np.array_equal(loaded.sample, probe.sample) and loaded.sample.dtype == np.float32


def test_one_probe_a_folder(tmp_path):
    for kind in ("logistic", "ridge"):
        PROBES[kind]().save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and load_probe(tmp_path).kind == "ridge"


@pytest.mark.parametrize("step", [1, 2])
def test_a_writer_that_is_stopped_leaves_the_old_probe(tmp_path, monkeypatch, step):
    PROBES["logistic"]().save(tmp_path)
    replaced, calls = os.replace, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == step:
            raise KeyboardInterrupt
        replaced(*args)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        PROBES["ridge"]().save(tmp_path)
    assert load_probe(tmp_path).kind == "logistic" and not list(tmp_path.glob(".*"))


def test_a_damaged_file(tmp_path):
    PROBES["ridge"]().save(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="missing or damaged.*predict something else.*Restore the file"):
        load_probe(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="missing or damaged"):
        load_probe(tmp_path)


def test_no_probe(tmp_path):
    with pytest.raises(ValueError, match=r"holds no probe.json.*no probe to load.*`Probe.save`"):
        load_probe(tmp_path)
    (tmp_path / "probe.json").write_text("{")
    with pytest.raises(ValueError, match=r"holds no probe.json"):
        load_probe(tmp_path)


def test_a_later_format(tmp_path):
    PROBES["ridge"]().save(tmp_path)
    path = tmp_path / "probe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(ValueError, match="has the format 2, this version reads 1.*fit the probe again"):
        load_probe(tmp_path)
