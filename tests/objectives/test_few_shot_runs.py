"""Few-shot objectives in training: ranks, accumulation, resume, adapters, images; what they leave alone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from hf_transfer import TransferBatch, attach
from tests.launching import launch
from tests.models import batch_for, lora, tiny_bert, tiny_gpt2, tiny_vit
from tests.objectives.few_shot_runs import MADE, STILL, rows, trained, weights


every = pytest.mark.parametrize("name", MADE)


def assert_close(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-5, msg=key)


def test_two_ranks_are_one_rank_with_twice_the_rows(tmp_path):
    done = launch("tests.objectives.few_shot_runs", tmp_path, 1, ranks=2)
    assert done.returncode == 0, done.stderr
    for name in MADE:
        first, second = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(value, second[key]) for key, value in first.items())
        assert_close(first, weights(trained(name, tmp_path, 2)))


@every
def test_accumulation_is_a_larger_batch(tmp_path, name):
    small = trained(name, tmp_path, 1, gradient_accumulation_steps=2)
    assert_close(weights(small), weights(trained(name, tmp_path, 2)))


@every
def test_resumes_bit_for_bit_in_the_middle_of_an_epoch(tmp_path, name):
    options = {"max_steps": 5, "save_steps": 3, "save_strategy": "steps"}
    straight = trained(name, tmp_path, model=seeded(tiny_bert), **options)
    resumed = trained(name, tmp_path, model=tiny_bert(), resume=str(tmp_path / "checkpoint-3"), **options)
    assert all(torch.equal(value, weights(resumed)[key]) for key, value in weights(straight).items())


def seeded(make, **options):
    torch.manual_seed(0)
    return make(**options)


@every
def test_learns_and_leaves_the_head_as_it_is(tmp_path, name):
    model = seeded(tiny_bert, **STILL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = trained(name, tmp_path, 2, model=model, max_steps=30)
    log = [entry for entry in trainer.state.log_history if f"loss_{name}" in entry]
    late, early = (sum(entry[f"loss_{name}"] for entry in part) for part in (log[-5:], log[:5]))
    assert late < 0.7 * early and all(entry["loss_task"] == 0 for entry in log)
    after = trainer.model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("classifier"))
    assert any(not torch.equal(after[key], before[key]) for key in before)


@every
@pytest.mark.parametrize(
    ("make", "image"),
    [(lambda: lora(tiny_bert(), ["query"], "classifier"), False), (tiny_gpt2, False), (tiny_vit, True)],
    ids=["lora", "decoder", "images"],
)
def test_trains_other_models(tmp_path, name, make, image):
    trainer = trained(name, tmp_path, model=seeded(make), data=rows(image=image), max_steps=2)
    assert all(0 < entry[f"loss_{name}"] < 100 for entry in trainer.state.log_history if "loss" in entry)


@every
def test_compiles_without_a_break(name):
    objective = MADE[name][0]()

    def term(features, labels):
        return objective(TransferBatch(features=features, labels=labels))

    features, labels = torch.randn(16, 4), torch.arange(16) % 2
    eager = term(features, labels)
    assert eager > 0
    torch.testing.assert_close(torch.compile(term, backend="eager", fullgraph=True)(features, labels), eager)


@every
def test_an_unlabelled_batch_teaches_nothing(name):
    model = seeded(tiny_bert).train()
    attach(model, [MADE[name][0]()])
    loss = model(**batch_for(model, 16, labelled=False)).loss
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())
