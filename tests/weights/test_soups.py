"""Soups against means in float64 and against the greedy rule written out; streaming, files, refusals."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification, BertForMaskedLM

from hf_transfer import DomainAdversarial, attach
from hf_transfer.weights import greedy_soup, transfer_parameters, uniform_soup
from hf_transfer.weights.source import Source
from tests.models import bert_config, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_vit


MODELS = {"bert": tiny_bert, "vit": tiny_vit, "resnet": tiny_resnet, "llama": tiny_llama}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def scalars(*values: float) -> list[dict[str, torch.Tensor]]:
    return [{"weight": torch.tensor([[value]])} for value in values]


def folders(tmp_path, models, **options) -> list[Any]:
    paths = [tmp_path / str(number) for number in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        model.save_pretrained(path, **options)
    return paths


# -- the mean of all


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_mean_against_the_sum_in_float64(make, count):
    members = [make() for _ in range(count)]
    soup = uniform_soup(model.state_dict() for model in members)
    assert soup.keys() == members[0].state_dict().keys()
    for name, value in soup.items():
        parts = [model.state_dict()[name] for model in members]
        if value.is_floating_point():
            expected = sum(part.double() for part in parts) / count
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(value, parts[0])


@pytest.mark.parametrize("count", [2, 3, 7])
def test_equal_members_give_themselves_bit_for_bit(count):
    model = tiny_resnet()
    assert same(uniform_soup([model.state_dict()] * count), state(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_averaged_in_float32_and_rounded_once(dtype):
    members = [{"w": torch.randn(5000).to(dtype)} for _ in range(8)]
    soup = uniform_soup(members)["w"]
    exact = sum(member["w"].double() for member in members) / 8
    assert soup.dtype == dtype
    # half a unit in the last place: no more than the one rounding
    assert ((soup.double() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps / 2 * 1.001 + 1e-6).all()


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "10KB"}])
@pytest.mark.parametrize("make", [tiny_vit, tiny_resnet])
def test_folders_keep_the_names_of_their_files_and_go_into_a_model(tmp_path, make, options):
    members = [make() for _ in range(3)]
    soup = uniform_soup(folders(tmp_path, members, **options))
    model = make()
    assert transfer_parameters(model, soup, head=True).coverage == 1
    expected = uniform_soup(member.state_dict() for member in members)
    assert same(state(model), expected)


def test_one_member_is_in_memory_at_a_time(tmp_path, monkeypatch):
    alive = []

    class Counted(torch.Tensor):
        pass

    read = Source.read

    def counted(self, names):
        gc.collect()
        alive.append(sum(type(thing) is Counted for thing in gc.get_objects()))
        return {name: tensor.as_subclass(Counted) for name, tensor in read(self, names).items()}

    monkeypatch.setattr(Source, "read", counted)
    paths = folders(tmp_path, [tiny_bert() for _ in range(5)])
    uniform_soup(paths)
    assert max(alive) <= 2 * len(tiny_bert().state_dict())  # the mean and the member before
    assert alive[-1] == alive[1]  # it does not grow with the number of members


def test_models_themselves_and_generators():
    members = [tiny_bert(), tiny_bert()]
    assert same(uniform_soup(iter(members)), uniform_soup([member.state_dict() for member in members]))


@pytest.mark.parametrize(
    "other", [{"w": torch.zeros(3)}, {"v": torch.zeros(2)}, {"w": torch.zeros(2), "v": torch.zeros(1)}]
)
def test_members_that_do_not_fit_are_named(other):
    with pytest.raises(ValueError, match=r"Member 2 \(state dict\) differs .* in \d tensors .*expected.*one start"):
        uniform_soup([{"w": torch.zeros(2)}, {"w": torch.ones(2)}, other])


def test_a_folder_that_does_not_fit_is_named(tmp_path):
    paths = folders(tmp_path, [tiny_bert(), tiny_bert(num_labels=5)])
    with pytest.raises(ValueError, match=r"Member 1 \(.*1\) differs .*classifier.*\(3,.*expected, \(5,"):
        uniform_soup(paths)


def test_no_member():
    with pytest.raises(ValueError, match="The soup has no member.*Give folders"):
        uniform_soup([])
    with pytest.raises(ValueError, match="The soup has no member"):
        greedy_soup(tiny_bert(), [], lambda: 0.0)


def test_adapters_are_refused(tmp_path):
    model = lora(tiny_bert(), ["query"], "classifier")
    model.save_pretrained(tmp_path)
    for member in (model, model.state_dict(), tmp_path):
        with pytest.raises(ValueError, match="adapters of PEFT.*merge_and_unload"):
            uniform_soup([member])
    with pytest.raises(ValueError, match="factors of their mean.*add_weighted_adapter.*cat"):
        greedy_soup(model, [model], lambda: 0.0)


# -- the greedy choice


def naive_greedy(values: list[float], score) -> tuple[list[int], float]:
    """Recipe 1 of the paper on scalars."""
    order = sorted(range(len(values)), key=lambda number: -score(values[number]))
    kept, best = [order[0]], score(values[order[0]])
    for number in order[1:]:
        tried = score(sum(values[k] for k in [*kept, number]) / (len(kept) + 1))
        if tried >= best:
            kept, best = [*kept, number], tried
    return kept, best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("given", [True, False])
def test_against_the_rule_written_out(seed, given):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(7, generator=generator).tolist()
    layer = nn.Linear(1, 1, bias=False)

    def score(value):
        return -abs(value - 0.2)

    scores = [score(value) for value in values] if given else None
    result = greedy_soup(layer, scalars(*values), lambda: score(layer.weight.item()), scores=scores)
    members, best = naive_greedy(values, score)
    assert list(result.members) == members and result.score == pytest.approx(best, abs=1e-6)
    assert result.scores == pytest.approx([score(value) for value in values])
    assert layer.weight.item() == pytest.approx(sum(values[k] for k in members) / len(members), abs=1e-6)
    assert result.score >= max(result.scores) - 1e-7


def test_a_loss_is_minimised():
    layer = nn.Linear(1, 1, bias=False)
    result = greedy_soup(
        layer, scalars(5.0, 1.0, 3.0), lambda: abs(layer.weight.item() - 2.0), greater_is_better=False
    )
    assert result.members == (1, 2) and result.score == 0 and layer.weight.item() == 2


def test_members_that_do_not_change_the_score_are_kept():
    layer = nn.Linear(1, 1, bias=False)
    assert greedy_soup(layer, scalars(1.0, 2.0, 3.0), lambda: 1.0).members == (0, 1, 2)
    assert layer.weight.item() == 2


def test_known_scores_save_evaluations():
    layer, calls = nn.Linear(1, 1, bias=False), []
    greedy_soup(layer, scalars(1.0, 2.0, 3.0), lambda: calls.append(1) or 0.0, scores=[0.1, 0.3, 0.2])
    assert len(calls) == 2


def test_scores_that_are_no_numbers_are_the_worst():
    layer = nn.Linear(1, 1, bias=False)
    scores = iter([math.nan])
    result = greedy_soup(layer, scalars(1.0, 2.0, 9.0), lambda: next(scores), scores=[0.5, 0.4, math.nan])
    assert result.members == (0,) and layer.weight.item() == 1


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_folders_of_whole_models(tmp_path, make):
    members = [make() for _ in range(3)]
    if make is tiny_resnet:
        for number, member in enumerate(members):
            member.resnet.embedder.embedder.normalization.num_batches_tracked.fill_(number + 5)
    model = make()
    result = greedy_soup(model, folders(tmp_path, members), lambda: 1.0, scores=[0.1, 0.9, 0.5])
    assert result.members == (1, 2, 0)
    expected = uniform_soup(members[number].state_dict() for number in (1, 2, 0))
    assert same(state(model), expected)


def test_one_winner_is_taken_over_bit_for_bit(tmp_path):
    members = [tiny_vit(), tiny_vit()]
    model, scores = tiny_vit(), iter([0.4])
    result = greedy_soup(model, folders(tmp_path, members), lambda: next(scores), scores=[0.2, 0.5])
    assert result.members == (1,) and result.score == 0.5 and same(state(model), state(members[1]))
    model.save_pretrained(tmp_path / "soup")
    assert same(state(AutoModelForImageClassification.from_pretrained(tmp_path / "soup")), state(model))


def test_tied_weights_stay_tied(tmp_path):
    members = [BertForMaskedLM(bert_config()) for _ in range(2)]
    model = BertForMaskedLM(bert_config())
    greedy_soup(model, folders(tmp_path, members), lambda: 1.0, scores=[1.0, 1.0])
    weight = model.cls.predictions.decoder.weight
    assert weight is model.bert.embeddings.word_embeddings.weight
    torch.testing.assert_close(weight, (members[0].state_dict()["cls.predictions.decoder.weight"]
                                        + members[1].state_dict()["cls.predictions.decoder.weight"]) / 2)  # fmt: skip


def test_attached_objectives_are_left_out():
    model = tiny_bert()
    attach(model, [DomainAdversarial(hidden_size=4)])
    own = state(model.transfer_objectives)
    greedy_soup(model, [tiny_bert(), model.state_dict()], lambda: 1.0, scores=[0.0, 1.0])
    assert same(state(model.transfer_objectives), own)


# -- refusals: the model is as it was


def failing():
    raise RuntimeError("no data")


@pytest.mark.parametrize(("members", "options", "error", "message"), [
    ("fit", {"evaluate": failing}, RuntimeError, "no data"),
    ("fit", {"evaluate": lambda: {}}, TypeError, "returned a dict"),
    ("fit", {"evaluate": lambda: math.nan}, ValueError, "score of every member is NaN.*Check"),
    ("fit", {"scores": [1.0]}, ValueError, "1 scores for 2 members.*one score for each"),
    ("narrow", {}, ValueError, r"Member 1 \(BertFor.*\) differs .*intermediate"),
    ("shallow", {}, ValueError, r"Member 1 .* in 16 tensors .*absent found"),
    ("deep", {}, ValueError, r"Member 1 .* in 16 tensors .*absent expected"),
    ("foreign", {}, ValueError, r"Member 1 \(ResNet"),
])  # fmt: skip
def test_failures_leave_the_model_as_it_was(members, options, error, message):
    second = {
        "fit": tiny_bert,
        "narrow": lambda: tiny_bert(intermediate_size=8),
        "shallow": lambda: tiny_bert(num_hidden_layers=2),
        "deep": lambda: tiny_bert(num_hidden_layers=4),
        "foreign": tiny_resnet,
    }[members]()
    model = tiny_bert()
    before = state(model)
    options = {"evaluate": lambda: 1.0, **options}
    with pytest.raises(error, match=message):
        greedy_soup(model, [tiny_bert(), second], **options)
    assert same(state(model), before)


def test_wrapped_models_are_refused():
    with pytest.raises(TypeError, match="wrapped in DataParallel.*bare model"):
        greedy_soup(nn.DataParallel(tiny_bert()), [tiny_bert()], lambda: 1.0)
