"""Training with the cache is training without it; what runs, what is refused, and what falls back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from hf_transfer import DomainAdversarial, FreezeBackbone, GradualUnfreezing, Objective, UnfreezingSchedule
from hf_transfer.callbacks.overrides import Override
from hf_transfer.frozen_prefix.session import FrozenPrefix
from tests.callbacks.harness import Crash, Recorder
from tests.callbacks.test_ranks import CHECKPOINTING
from tests.frozen_prefix.harness import (
    QUIET_GPT2,
    Count,
    FixedRows,
    RaggedRows,
    assert_same,
    both,
    freeze,
    make,
    pad,
    pad_left,
    train,
)
from tests.models import (
    lora,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_resnet,
    tiny_token_bert,
    tiny_vit,
    tiny_wav2vec2,
)


TEXT = {"rows": RaggedRows(), "collate": pad}
PROOF = 5
"""Rows of the proof: three and two."""
LOGGER = "hf_transfer.frozen_prefix.session"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture):
    """What the cache says, warnings and less."""
    caplog.set_level(logging.INFO, logger=LOGGER)
    return lambda: [record.getMessage() for record in caplog.records if record.name == LOGGER]


def is_cached(messages: list[str]) -> bool:
    return any("Storing the output" in message for message in messages) and not falls_back(messages)


def falls_back(messages: list[str]) -> list[str]:
    return [message for message in messages if "without the frozen-prefix cache" in message]


def quiet_gpt2() -> nn.Module:
    return tiny_gpt2(**QUIET_GPT2)


def quiet_wav2vec2() -> nn.Module:
    return tiny_wav2vec2(layerdrop=0.0, hidden_dropout=0.0, feat_proj_dropout=0.0)


MODELS = {
    "bert": (tiny_bert, TEXT),
    "token_bert": (tiny_token_bert, {"rows": RaggedRows(per_token=True), "collate": pad}),
    "gpt2": (quiet_gpt2, TEXT),
    "llama": (tiny_llama, TEXT),
    "llama, padded on the left": (tiny_llama, {"rows": RaggedRows(), "collate": pad_left}),
    "vit": (tiny_vit, {}),
    "resnet": (tiny_resnet, {}),
    "wav2vec2": (quiet_wav2vec2, {}),
}


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_weights_are_those_without_the_cache(name, blocks, tmp_path, told):
    build, options = MODELS[name]
    plain, cached = both(tmp_path, build, lambda: freeze(blocks), **options)
    assert_same(plain, cached)
    assert is_cached(told()), told()


def test_the_head_alone_trains_as_without_the_cache(tmp_path, told):
    assert_same(*both(tmp_path, tiny_bert, FreezeBackbone, **TEXT))
    assert is_cached(told())


def test_accumulation_and_checkpointed_activations(tmp_path, told):
    for number, options in enumerate(({"gradient_accumulation_steps": 3}, {CHECKPOINTING: True})):
        assert_same(*both(tmp_path / str(number), tiny_bert, lambda: freeze(2), **TEXT, **options))
    assert is_cached(told())


def test_each_row_passes_the_frozen_blocks_once_and_never_again_in_a_second_run(tmp_path):
    blocks = ["bert.encoder.layer.0", "bert.encoder.layer.1", "bert.encoder.layer.2"]
    trainer = make(tmp_path, tiny_bert, freeze(2), cache=True, **TEXT)
    count = Count(trainer.model, blocks)
    train(trainer)
    assert count.rows[blocks[0]] == count.rows[blocks[1]] == 16 + PROOF
    assert count.rows[blocks[2]] == 3 * 16 + 2 * PROOF  # the proof runs what is above the prefix twice

    again = make(tmp_path, tiny_bert, freeze(2), cache=True, seed=42, **TEXT)
    count = Count(again.model, blocks)
    train(again)
    assert count.rows[blocks[0]] == count.rows[blocks[1]] == PROOF


def test_other_weights_other_data_and_other_depth_are_other_entries(tmp_path):
    def folders() -> int:
        return len(list((tmp_path / "cache").iterdir()))

    def other() -> nn.Module:
        model = tiny_bert()
        with torch.no_grad():
            next(model.bert.encoder.layer[0].parameters()).add_(0.1)
        return model

    def other_head() -> nn.Module:
        model = tiny_bert()
        with torch.no_grad():
            model.classifier.weight.add_(0.1)
            next(model.bert.encoder.layer[2].parameters()).add_(0.1)
        return model

    train(make(tmp_path, tiny_bert, freeze(2), cache=True, **TEXT))
    assert folders() == 1
    train(make(tmp_path, other_head, freeze(2), cache=True, **TEXT))
    assert folders() == 1
    train(make(tmp_path, other, freeze(2), cache=True, **TEXT))
    assert folders() == 2
    train(make(tmp_path, tiny_bert, freeze(1), cache=True, **TEXT))
    assert folders() == 3
    train(make(tmp_path, tiny_bert, freeze(2), cache=True, rows=RaggedRows(15), collate=pad))
    assert folders() == 4


# -- phases


def test_gradual_unfreezing_caches_each_prefix_and_trains_the_same(tmp_path, told):
    schedule = lambda: GradualUnfreezing(stages=4, fractions=[0, 0.3, 0.6, 0.9])  # noqa: E731
    assert_same(*both(tmp_path, tiny_bert, schedule, num_train_epochs=8, **TEXT))
    stored = [message for message in told() if "Storing the output" in message]
    assert ["of 3 frozen" in stored[0], "of 2 frozen" in stored[1], "of 1 frozen" in stored[2]] == [True] * 3
    assert told()[-1].startswith("The first block trains")


def test_a_prefix_that_outlives_its_phase_counts_as_long_as_it_stays_frozen(tmp_path, told):
    phases = [{"train": "head"}, {"epoch": 1, "train": ["head", "neck"]}, {"epoch": 2, "train": ["head", "block.2"]}]
    assert_same(*both(tmp_path, tiny_bert, lambda: UnfreezingSchedule(phases), num_train_epochs=4, **TEXT))
    assert is_cached(told())


def test_a_phase_of_one_epoch_is_not_worth_it_unless_it_is_stored(tmp_path, told):
    assert_same(*both(tmp_path, tiny_bert, lambda: freeze(2), num_train_epochs=1, **TEXT))
    assert "stays frozen for 1 epochs" in falls_back(told())[0]
    train(make(tmp_path, tiny_bert, freeze(2), cache=True, **TEXT))
    before = len(falls_back(told()))
    train(make(tmp_path, tiny_bert, freeze(2), cache=True, num_train_epochs=1, **TEXT))
    assert len(falls_back(told())) == before


@pytest.mark.parametrize("step", [6, 8])
def test_a_killed_run_resumes_bit_for_bit(step, tmp_path):
    """Step 6 is in the middle of the first phase; at step 8 the second begins."""
    phases = [{"train": ["head"]}, {"step": 8, "train": ["head", "block.2"]}]

    def trainer(folder: str, *callbacks: Any):
        options = {"num_train_epochs": 5, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
        schedule = UnfreezingSchedule(phases)
        return make(tmp_path / folder, tiny_bert, schedule, cache=True, callbacks=callbacks, **TEXT, **options)

    straight, resumed = Recorder(), Recorder()
    reference = train(trainer("straight", straight))
    with pytest.raises(KeyboardInterrupt):
        trainer("killed", Crash(step + 1)).train()
    again = trainer("killed", resumed)
    checkpoint = tmp_path / "killed" / "out" / f"checkpoint-{step}"
    result = train(again, resume_from_checkpoint=str(checkpoint))
    assert resumed.steps == straight.steps[step:]
    assert all(torch.equal(value, result.weights[name]) for name, value in reference.weights.items())


def test_whatever_ends_a_run_the_model_is_left_as_it_was(tmp_path):
    trainer = make(tmp_path, tiny_bert, freeze(2), cache=True, callbacks=[Crash(2)], **TEXT)
    model: Any = trainer.model
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not any(isinstance(hook, FrozenPrefix) for hook in model._forward_pre_hooks.values())
    assert not any(isinstance(vars(module).get("forward"), Override) for module in model.modules())
    assert "frozen_prefix_row" not in next(iter(trainer.get_train_dataloader()))
    assert torch.isfinite(model(**pad([RaggedRows()[0]])).loss)


def test_evaluation_runs_the_whole_model(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": RaggedRows(6), **TEXT}
    runs = []
    for cache in (False, True):
        trainer = make(tmp_path, tiny_bert, freeze(2), cache=cache, **options)
        train(trainer)
        runs.append([log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log])
    assert len(runs[0]) > 3
    torch.testing.assert_close(torch.tensor(runs[0]), torch.tensor(runs[1]))


# -- images that are not read


@dataclass
class Paint:
    """Makes a picture of a number, and notes how many; in the file `log` also what workers make."""

    log: str

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        with open(self.log, "a") as file:
            file.write("x" * len(batch["image"]))
        draws = [np.random.default_rng(number).normal(size=(3, 8, 8)) for number in batch["image"]]
        pixels = [torch.tensor(draw, dtype=torch.float32) for draw in draws]
        return {**{key: value for key, value in batch.items() if key != "image"}, "pixel_values": pixels}


def pictures(log: Path, rows: int = 16) -> Any:
    datasets = pytest.importorskip("datasets")
    table = {"image": list(range(rows)), "labels": [row % 3 for row in range(rows)]}
    return datasets.Dataset.from_dict(table).with_transform(Paint(str(log)))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_pictures_are_read_once_and_again_where_a_phase_changes_under_a_fetched_batch(workers, tmp_path):
    phases = [{"train": ["head"]}, {"step": 13, "train": "all"}]
    options = {"remove_unused_columns": False, "num_train_epochs": 4, "dataloader_num_workers": workers}
    if workers:
        options |= {"dataloader_prefetch_factor": 2}
    runs, seen = [], []
    for cache in (False, True):
        log = tmp_path / f"{cache}.log"
        trainer = make(
            tmp_path, tiny_vit, UnfreezingSchedule(phases), cache=cache, rows=pictures(log), collate=None, **options
        )
        runs.append(train(trainer))
        seen.append(log.stat().st_size)
    assert_same(*runs)
    # Without: 64. With: checks, proof, one pass to store; then nothing until the phase that trains all.
    assert seen[0] == 64
    # Checks and proof read no more than this; then one pass is stored, and the last 3 of 16 batches are read.
    assert seen[1] <= 60 + 16 + 4 * (3 + 2 * workers)


def test_without_unread_pictures_a_wrong_input_would_show(tmp_path, monkeypatch):
    """The picture of an unread row is not a number: a batch that is not read again ruins the run visibly."""
    monkeypatch.setattr(FrozenPrefix, "_read", lambda self, rows, device: {})
    phases = [{"train": ["head"]}, {"step": 13, "train": "all"}]
    trainer = make(
        tmp_path,
        tiny_vit,
        UnfreezingSchedule(phases),
        cache=True,
        rows=pictures(tmp_path / "log"),
        remove_unused_columns=False,
        num_train_epochs=4,
    )
    with pytest.raises((ValueError, RuntimeError)):
        trainer.train()


# -- with objectives, adapters and mixed data


def test_an_objective_sees_the_same_features(tmp_path, told):
    objectives = lambda: [DomainAdversarial(hidden_size=8)]  # noqa: E731
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "domain": number % 2} for number, row in enumerate(RaggedRows().rows)]

    def with_domain(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**pad(examples), "domain": torch.tensor([example["domain"] for example in examples])}

    runs = []
    for cache in (False, True):
        data = datasets.Dataset.from_list(rows)
        trainer = make(
            tmp_path, tiny_bert, freeze(2), cache=cache, rows=data, collate=with_domain, objectives=objectives()
        )
        runs.append(train(trainer))
    assert_same(*runs)
    assert is_cached(told())


class States(Objective):
    """Reads what one block returns."""

    def __init__(self, block: int):
        super().__init__(weight=0.1)
        self.block = block

    def build(self, spec: Any) -> Any:
        self.hidden_states = (spec.anatomy.blocks[self.block],)
        return self

    def forward(self, batch: Any) -> torch.Tensor:
        return batch.hidden_states[self.hidden_states[0]].square().mean() + 0 * batch.features.sum()


@pytest.mark.parametrize(("block", "cached"), [(0, False), (1, True), (2, True)])
def test_an_objective_reads_hidden_states_of_blocks_that_run(block, cached, tmp_path, told):
    # Padding is left out of what is stored: rows of one length, where there is none.
    rows = FixedRows(tiny_bert())
    rows.batch = {name: value for name, value in rows.batch.items() if name != "attention_mask"}
    runs = [
        train(make(tmp_path, tiny_bert, freeze(2), cache=cache, rows=rows, objectives=[States(block)]))
        for cache in (False, True)
    ]
    assert_same(*runs)
    assert is_cached(told()) == cached
    if not cached:
        assert "An objective reads what `bert.encoder.layer.0` returns" in falls_back(told())[0]


def test_adapters_in_the_upper_blocks_alone_leave_a_frozen_prefix(tmp_path, told):
    pytest.importorskip("peft")

    def build() -> nn.Module:
        model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        return lora(model, ["query", "value"], "classifier", layers_to_transform=[2], layers_pattern="layer")

    assert_same(*both(tmp_path, build, lambda: UnfreezingSchedule([{"train": "all"}]), **TEXT))
    assert is_cached(told())
    assert "of 2 frozen blocks" in told()[-1]


def test_dropout_of_what_peft_froze_is_off_while_it_is_cached(tmp_path, told):
    pytest.importorskip("peft")

    def build() -> nn.Module:
        return lora(tiny_bert(), ["query"], "classifier", layers_to_transform=[2], layers_pattern="layer")

    trainer = make(tmp_path, build, UnfreezingSchedule([{"train": "all"}]), cache=True, **TEXT)
    seen = set()
    model: Any = trainer.model
    lower, upper = (model.get_base_model().bert.encoder.layer[number].output.dropout for number in (1, 2))
    model.register_forward_hook(lambda *_: seen.add((model.training, lower.training, upper.training)))
    train(trainer)
    assert is_cached(told())
    assert seen == {(True, False, True)}
    assert lower.training == model.training


# -- what falls back


def fallback(tmp_path: Path, told: Any, build: Any, schedule: Any, **options: Any) -> str:
    """The run is the plain one, bit for bit, and the log says why."""
    plain, cached = both(tmp_path, build, schedule, **options)
    assert plain.losses == cached.losses
    (message,) = falls_back(told())
    assert message.count(" - ") >= 2
    return message


def test_padding_that_counts_falls_back(tmp_path, told):
    options = {"rows": RaggedRows(), "collate": pad_left}
    assert "hidden states differ" in fallback(tmp_path, told, quiet_gpt2, lambda: freeze(1), **options)


def test_layer_drop_falls_back(tmp_path, told):
    assert "layerdrop=0.1" in fallback(tmp_path, told, tiny_wav2vec2, lambda: freeze(1))


def test_a_bound_on_the_disk_falls_back(tmp_path, told):
    message = fallback(tmp_path, told, tiny_bert, lambda: freeze(2), frozen_prefix_max_gb=1e-6, **TEXT)
    assert "`frozen_prefix_max_gb` allows 1e-06" in message
    assert not (tmp_path / "cache").exists()


def test_a_disk_without_room_falls_back(tmp_path, told, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    assert "frozen_prefix_cache_dir" in fallback(tmp_path, told, tiny_bert, lambda: freeze(2), **TEXT)


def test_a_disk_that_fills_up_falls_back(tmp_path, told, monkeypatch):
    from hf_transfer.features.cache import Entry

    def full(self: Any, *args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Entry, "write", full)
    plain, cached = both(tmp_path, tiny_bert, lambda: freeze(2), **TEXT)
    assert plain.losses == cached.losses
    assert "No space left" in falls_back(told())[0]


def test_ragged_rows_without_a_mask_fall_back(tmp_path, told):
    def without_mask(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pad(examples).items() if name != "attention_mask"}

    options = {"rows": RaggedRows(), "collate": without_mask}
    assert "there is no attention mask" in fallback(tmp_path, told, tiny_bert, lambda: freeze(2), **options)


def test_a_stored_row_that_is_wrong_does_not_pass_the_proof(tmp_path, told, monkeypatch):
    from hf_transfer.frozen_prefix.table import Table

    flat = Table.flat
    monkeypatch.setattr(Table, "flat", lambda self, hidden, mask: flat(self, hidden * 1.01, mask))
    assert "hidden states differ" in fallback(tmp_path, told, tiny_bert, lambda: freeze(2), **TEXT)


def test_blocks_that_pass_on_more_than_a_hidden_state_fall_back(tmp_path, told):
    from tests.architectures import architecture
    from tests.contract.test_every_head import small_model

    def build() -> nn.Module:
        model: Any = small_model(architecture("T5ForTokenClassification"))
        model.config.num_labels = 3
        return model

    rows = RaggedRows(per_token=True)
    plain, cached = both(tmp_path, build, lambda: freeze(1), rows=rows, collate=pad)
    assert plain.losses == cached.losses
    assert falls_back(told())


def test_data_that_changes_under_the_run_is_an_error(tmp_path):
    class Changing(RaggedRows):
        reads = 0

        def __getitem__(self, row: int) -> dict[str, Any]:
            Changing.reads += 1
            example = super().__getitem__(row)
            if Changing.reads > 150:
                example["input_ids"] = example["input_ids"][:2]
            return example

    trainer = make(tmp_path, tiny_bert, freeze(2), cache=True, rows=Changing(), collate=pad, num_train_epochs=9)
    with pytest.raises(RuntimeError, match=r"have \[.*\] tokens, but \[.*\] when .* - do not change the data"):
        trainer.train()


def test_a_block_that_does_not_run_is_an_error(tmp_path):
    model = tiny_bert()
    rows = FixedRows(model)
    trainer = make(tmp_path, lambda: model, freeze(3), cache=True, rows=rows)

    class Drop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                model.bert.encoder.layer = nn.ModuleList(model.bert.encoder.layer[:2])

    trainer.add_callback(Drop())
    with pytest.raises(RuntimeError, match="did not run the last frozen block"):
        trainer.train()


def test_half_precision_is_stored_as_its_bits(tmp_path, told):
    def build() -> nn.Module:
        return tiny_llama().to(torch.bfloat16)

    plain, cached = both(tmp_path, build, lambda: freeze(1), **TEXT)
    assert is_cached(told())
    torch.testing.assert_close(torch.tensor(cached.losses), torch.tensor(plain.losses), rtol=2e-2, atol=2e-2)
