from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.anatomy import anatomy
from hf_transfer.features.cache import Entry
from hf_transfer.frozen_prefix.extent import Prefix, Unsuitable
from hf_transfer.frozen_prefix.filling import fill, hidden_states
from hf_transfer.frozen_prefix.recording import record
from hf_transfer.frozen_prefix.table import Layout, Table
from tests.frozen_prefix.harness import Count, RaggedRows, pad
from tests.models import tiny_bert


ROWS = RaggedRows(11)
LENGTHS = np.array([len(row["input_ids"]) for row in ROWS.rows])


def setting(tmp_path):
    model = tiny_bert().train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    blocks = anatomy(model).blocks[:2]
    batch = {name: value for name, value in pad([ROWS[0], ROWS[1]]).items() if name != "labels"}
    recording = record(model, lambda: model(**batch), Prefix(2, blocks, (), ()), rows=2, stem=False)
    layout = Layout((16,), torch.float32, len(ROWS), LENGTHS)
    table = Table(Entry.open({"test": 1}, rows=len(ROWS), shard_rows=4, cache_dir=tmp_path), layout)
    return model, recording, table


def naive(model, row):
    """One row alone, by the modules themselves."""
    model.eval()
    with torch.no_grad():
        hidden = model.bert.embeddings(torch.tensor([ROWS[row]["input_ids"]]))
        for block in model.bert.encoder.layer[:2]:
            hidden = block(hidden)
    return hidden[0] if hidden.dim() == 3 else hidden


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_every_row_is_what_it_is_alone_whatever_the_batch(batch_size, tmp_path):
    model, recording, table = setting(tmp_path)
    fill(table, model, recording, ROWS, pad, table.entry.missing(), batch_size=batch_size, progress=False)
    assert table.entry.missing() == []
    table.open()
    for row in range(len(ROWS)):
        taken = table.take([row], torch.ones(1, int(LENGTHS[row])))[0]
        torch.testing.assert_close(taken, naive(model, row), rtol=1e-5, atol=1e-6)


def test_only_the_shards_asked_for_run_and_nothing_above_the_prefix(tmp_path):
    model, recording, table = setting(tmp_path)
    count = Count(model, anatomy(model).blocks)
    fill(table, model, recording, ROWS, pad, [2], batch_size=2, progress=False)
    assert table.entry.missing() == [0, 1]
    assert list(count.rows.values()) == [3, 3, 0]


def test_modes_hooks_and_random_numbers_are_as_before(tmp_path):
    model, recording, table = setting(tmp_path)
    model.bert.pooler.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fill(table, model, recording, ROWS, pad, [0, 1, 2], batch_size=4, progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_a_block_that_runs_less_often_than_it_was_seen_to_is_refused(tmp_path):
    model, recording, _ = setting(tmp_path)
    recording.calls = 2
    with pytest.raises(Unsuitable, match="ran 1 times for one batch and 2 times for another"):
        hidden_states(model, recording, pad([ROWS[0]]))
