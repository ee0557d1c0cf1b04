"""Models of time series under `attach`: what they call their target, what they return, and what may be missing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    InformerConfig,
    InformerForPrediction,
    PatchTSMixerConfig,
    PatchTSMixerForPrediction,
    PatchTSMixerForPretraining,
    PatchTSMixerForRegression,
    PatchTSMixerForTimeSeriesClassification,
    PatchTSTConfig,
    PatchTSTForClassification,
    PatchTSTForPrediction,
    PatchTSTForPretraining,
    PatchTSTForRegression,
)

from hf_transfer import (
    L2SP,
    DomainAdversarial,
    LabelSmoothing,
    LogitDistillation,
    Objective,
    anatomy,
    attach,
    objectives,
)
from hf_transfer.functional.task_loss import observed_squared_error
from hf_transfer.objective import TaskTerm
from hf_transfer.series_models import labels_of, named_output, predicts_values, series_model
from tests.models import lora, tiny_bert
from tests.objectives.cases import CASES
from tests.small_architectures import RUN, small_model, training_batch


SIZES = {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "prediction_length": 4}
PATCHTST = {"d_model": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 8}
EAGER = {"attn_implementation": "eager", "ff_dropout": 0.1}
MIXER = {"d_model": 4, "num_layers": 2, "expansion_factor": 1}


def patchtst(kind=PatchTSTForPrediction, **options):
    torch.manual_seed(0)
    return kind(PatchTSTConfig(**{**SIZES, **PATCHTST, "num_targets": 3, **EAGER, **options}))


def mixer(kind=PatchTSMixerForPrediction, **options):
    torch.manual_seed(0)
    return kind(PatchTSMixerConfig(**{**SIZES, **MIXER, "num_targets": 3, **options}))


def rows_for(model: nn.Module, rows: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch = {"past_values": torch.randn(rows, 16, 2, generator=generator)}
    found = series_model(model)
    if found.kind == "forecast":
        batch["future_values"] = torch.randn(rows, 4, 2, generator=generator)
    if found.kind == "classification":
        batch["target_values"] = torch.arange(rows) % 3
    if found.kind == "regression":
        batch["target_values"] = torch.randn(rows, 3, generator=generator)
    return batch


class Seen(Objective):
    """Keeps the batch it was given; its term is the mean feature."""

    def forward(self, batch):
        self.batch = batch
        return batch.features.mean()


FORECASTERS = [patchtst, mixer]
CLASSIFIERS = [
    lambda **options: patchtst(PatchTSTForClassification, **options),
    lambda **options: mixer(PatchTSMixerForTimeSeriesClassification, **options),
]
REGRESSIONS = [
    lambda **options: patchtst(PatchTSTForRegression, **options),
    lambda **options: mixer(PatchTSMixerForRegression, **options),
]
RECONSTRUCTIONS = [
    lambda **options: patchtst(PatchTSTForPretraining, **options),
    lambda **options: mixer(PatchTSMixerForPretraining, **options),
]
EVERY = [*FORECASTERS, *CLASSIFIERS, *REGRESSIONS, *RECONSTRUCTIONS]


# -- what is known of a class


def test_other_models_are_none_of_these():
    assert series_model(tiny_bert()) is None and not predicts_values(tiny_bert()) and not predicts_values(None)


@pytest.mark.parametrize(
    ("makes", "kind", "target"),
    [
        (FORECASTERS, "forecast", "future_values"),
        (CLASSIFIERS, "classification", "target_values"),
        (REGRESSIONS, "regression", "target_values"),
        (RECONSTRUCTIONS, "reconstruction", None),
    ],
)
def test_kind_and_target_are_told_by_the_class(makes, kind, target):
    for make in makes:
        found = series_model(make())
        assert (found.kind, found.target) == (kind, target)
        assert predicts_values(make()) is (kind != "classification")


def test_output_without_a_known_name_is_refused():
    assert named_output({"loss": 1, "regression_outputs": torch.zeros(1)}) == "regression_outputs"
    with pytest.raises(ValueError, match="returned loss, scores, none of which.*nothing to read.*Return it under"):
        named_output({"loss": 1, "scores": torch.zeros(1)})


def test_labels_of_a_batch():
    assert labels_of({"labels": torch.tensor([1]), "target_values": torch.tensor([2])}).tolist() == [1]
    assert labels_of({"target_values": [2, 0]}).tolist() == [2, 0]
    future = torch.tensor([[[1.0, torch.nan], [2.0, 3.0]]])
    assert labels_of({"future_values": future}).tolist() == [[1.0, -100.0, 2.0, 3.0]]
    with pytest.raises(ValueError, match="has past_values and no target.*nothing to learn from.*Give `labels`"):
        labels_of({"past_values": future})


# -- the loss


def test_observed_squared_error_is_that_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    target = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    target[torch.rand(3, 4, 2, generator=generator) < 0.4] = torch.nan
    weight = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    plain = weighted = 0.0
    count = 0
    for row in range(3):
        for step in range(4):
            for channel in range(2):
                if not torch.isnan(target[row, step, channel]):
                    error = (target[row, step, channel] - prediction[row, step, channel]).item() ** 2
                    plain, weighted, count = plain + error, weighted + weight[row].item() * error, count + 1
    assert 0 < count < 24
    assert observed_squared_error(prediction, target).item() == pytest.approx(plain / count, rel=1e-12)
    assert observed_squared_error(prediction, target, weight).item() == pytest.approx(weighted / count, rel=1e-12)


def test_observed_squared_error_of_nothing_is_an_exact_zero_with_a_graph():
    prediction = torch.full((1, 2), torch.inf, requires_grad=True)
    loss = observed_squared_error(prediction, torch.full((1, 2), torch.nan))
    loss.backward()
    assert loss.item() == 0 and torch.equal(prediction.grad, torch.zeros(1, 2))


@pytest.mark.parametrize("make", EVERY)
def test_loss_and_gradients_are_the_models_own_bit_for_bit_where_nothing_is_missing(make):
    bare, model = make().train(), make().train()
    batch = rows_for(bare)
    torch.manual_seed(1)
    expected = bare(**batch)
    expected.loss.backward()
    attach(model, [])
    torch.manual_seed(1)
    output = model(**batch)
    output.loss.backward()
    assert list(output) == list(expected) and torch.equal(output.loss, expected.loss)
    for (name, parameter), own in zip(bare.named_parameters(), model.parameters(), strict=True):
        assert (parameter.grad is None and own.grad is None) or torch.equal(parameter.grad, own.grad), name


@pytest.mark.parametrize("make", FORECASTERS)
def test_forecasters_learn_from_observed_values_alone(make):
    model = make(ff_dropout=0.0) if make is patchtst else make(dropout=0.0, head_dropout=0.0)
    model.train()
    batch = rows_for(model)
    batch["future_values"][0, :, 0] = torch.nan
    batch["future_values"][2] = torch.nan
    seen = Seen(weight=0.0)
    with attach(model, [seen]) as attachment:
        torch.manual_seed(1)
        output = model(**batch)
        output.loss.backward()
        forecast, target = output.prediction_outputs.detach(), batch["future_values"]
        observed = ~target.isnan()
        expected = (forecast[observed] - target[observed]).square().mean()
        torch.testing.assert_close(attachment.terms["task"], expected)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(seen.batch.labels.isnan(), ~observed)
    assert seen.batch.rows.labelled.tolist() == [True, True, False, True]


@pytest.mark.parametrize("make", FORECASTERS)
def test_batch_without_an_observed_value_gives_an_exact_zero(make):
    model = make().train()
    batch = rows_for(model)
    batch["future_values"][:] = torch.nan
    with attach(model, []):
        loss = model(**batch).loss
        loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("make", [*FORECASTERS, *REGRESSIONS])
def test_sample_weight_counts_rows(make):
    model = make().train()
    batch = rows_for(model)
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0])
    with attach(model, []):
        torch.manual_seed(1)
        output = model(**batch, sample_weight=weight)
    prediction = output[named_output(output)].detach()
    target = batch.get("future_values", batch.get("target_values"))
    expected = ((prediction - target).square().flatten(1).mean(1) * weight).mean()
    torch.testing.assert_close(output.loss.detach(), expected)


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_sample_weight_counts_rows_of_a_classification(make):
    model = make().train()
    batch = rows_for(model)
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0])
    with attach(model, []):
        output = model(**batch, sample_weight=weight)
    losses = nn.functional.cross_entropy(output[named_output(output)], batch["target_values"], reduction="none")
    torch.testing.assert_close(output.loss, (losses * weight).mean())


def test_forecasts_of_some_channels_are_compared_with_these():
    model = mixer(prediction_channel_indices=[1], num_input_channels=2).train()
    batch = rows_for(model)
    batch["future_values"][0, 0, 1] = torch.nan
    batch["future_values"][:, :, 0] = 1e6
    seen = Seen(weight=0.0)
    with attach(model, [seen]) as attachment:
        forecast = model(**batch).prediction_outputs.detach()
        assert attachment.terms["task"] < 1e6
    target = batch["future_values"][..., 1:]
    assert forecast.shape == target.shape == seen.batch.labels.shape
    torch.testing.assert_close(attachment.terms["task"], observed_squared_error(forecast, target))


@pytest.mark.parametrize("make", REGRESSIONS)
@pytest.mark.parametrize("mark", [torch.nan, -100.0])
def test_regressions_leave_out_missing_targets(make, mark):
    model = make().train()
    batch = rows_for(model)
    batch["target_values"][1, 2] = mark
    seen = Seen(weight=0.0)
    with attach(model, [seen]) as attachment:
        output = model(**batch)
        output.loss.backward()
    observed = torch.ones(4, 3, dtype=torch.bool)
    observed[1, 2] = False
    errors = (output.regression_outputs - batch["target_values"])[observed]
    torch.testing.assert_close(attachment.terms["task"], errors.square().mean().detach())
    assert seen.batch.labels[1, 2] == -100
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_unlabelled_series_are_left_out(make):
    model = make(ff_dropout=0.0) if "PatchTSTFor" in type(make()).__name__ else make(dropout=0.0, head_dropout=0.0)
    model.train()
    batch = rows_for(model)
    batch["target_values"][2:] = -100
    with attach(model, []) as attachment:
        logits = model(**batch)
        logits = logits[named_output(logits)].detach()
        expected = nn.functional.cross_entropy(logits[:2], batch["target_values"][:2])
        torch.testing.assert_close(attachment.terms["task"], expected)
        assert model(**{**batch, "target_values": torch.full((4,), -100)}).loss.item() == 0


def test_target_of_another_shape_is_refused():
    model = patchtst().train()
    batch = rows_for(model)
    batch["future_values"] = batch["future_values"][..., :1]
    message = r"`future_values` has shape \(4, 4, 1\).*predicts \(4, 4, 2\).*no error of the model.*one target"
    with attach(model, []), pytest.warns(UserWarning, match="broadcast"), pytest.raises(ValueError, match=message):
        model(**batch)


# -- distributions


def informer(**options):
    torch.manual_seed(0)
    sizes = {"context_length": 8, "prediction_length": 4, "lags_sequence": [1], "num_time_features": 1, "d_model": 8}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ffn = {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    return InformerForPrediction(InformerConfig(**{**sizes, **layers, **ffn, **options}))


def informer_batch(rows: int = 2) -> dict[str, torch.Tensor]:
    return {
        "past_values": torch.rand(rows, 9),
        "past_time_features": torch.rand(rows, 9, 1),
        "past_observed_mask": torch.ones(rows, 9),
        "future_values": torch.rand(rows, 4),
        "future_time_features": torch.rand(rows, 4, 1),
    }


def test_distributions_keep_their_own_loss():
    model = patchtst(loss="nll").train()
    batch = rows_for(model)
    torch.manual_seed(1)
    bare = model(**batch)
    seen = Seen(weight=0.5)
    with attach(model, [seen]) as attachment:
        torch.manual_seed(1)
        output = model(**batch)
    assert torch.equal(attachment.terms["task"], bare.loss) and seen.batch.logits.shape == (4, 4, 2, 3)
    assert isinstance(output.prediction_outputs, tuple) and len(output.prediction_outputs) == 3
    assert all(torch.equal(a, b) for a, b in zip(output.prediction_outputs, bare.prediction_outputs, strict=True))


@pytest.mark.parametrize("make", [lambda: patchtst(loss="nll"), informer])
def test_missing_targets_of_a_distribution_are_refused(make):
    model = make().train()
    batch = informer_batch() if isinstance(model, InformerForPrediction) else rows_for(model)
    batch["future_values"][0, 0] = torch.nan
    with (
        attach(model, []),
        pytest.raises(ValueError, match="values of `future_values` are missing.*no|not.*Leave such"),
    ):
        model(**batch)


def test_row_weights_of_a_distribution_are_refused():
    model = informer().train()
    with (
        attach(model, []),
        pytest.raises(ValueError, match="`sample_weight` with InformerForPrediction.*Take the col"),
    ):
        model(**informer_batch(), sample_weight=torch.ones(2))


# -- what objectives see


@pytest.mark.parametrize("make", EVERY)
def test_features_are_a_vector_a_row_of_the_width_that_objectives_are_built_for(make):
    model = make().train()
    seen, adversary = Seen(weight=0.0), DomainAdversarial(hidden_size=4)
    with attach(model, [seen, adversary, L2SP()]) as attachment:
        loss = model(**rows_for(model), domain=torch.tensor([0, 1, 0, 1])).loss
        loss.backward()
        assert seen.batch.features.shape == (4, attachment.anatomy.feature_dim)
        assert seen.batch.features.dtype == torch.float32 and loss.isfinite()
        assert list(attachment.terms) == ["task", "seen", "domain_adversarial", "l2sp"]
        assert all(p.grad is not None for p in adversary.parameters())


def test_features_of_a_forecaster_are_the_mean_over_its_channels():
    model = patchtst().train()
    kept = []
    handle = model.head.projection.register_forward_pre_hook(lambda _, args: kept.append(args[0].detach()))
    seen = Seen(weight=0.0)
    with attach(model, [seen]):
        model(**rows_for(model))
    handle.remove()
    assert kept[0].shape == (4, 2, 8)
    torch.testing.assert_close(seen.batch.features.detach(), kept[0].mean(1))


def test_features_of_a_reconstruction_are_the_mean_over_channels_and_patches():
    model = RECONSTRUCTIONS[0]().train()
    kept = []
    handle = model.head.linear.register_forward_pre_hook(lambda _, args: kept.append(args[0].detach()))
    seen = Seen(weight=0.0)
    with attach(model, [seen]):
        model(**rows_for(model))
    handle.remove()
    assert kept[0].shape == (4, 2, 4, 8) and seen.batch.labels is None
    torch.testing.assert_close(seen.batch.features.detach(), kept[0].mean((1, 2)))
    assert seen.batch.rows.unlabelled.all() and not seen.batch.rows.labelled.any()


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_head_of_features_is_the_logits_of_a_classifier(make):
    model = make().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    seen = Seen(weight=0.0)
    with attach(model, [seen]) as attachment:
        output = model(**rows_for(model))
        head = model.get_submodule(attachment.anatomy.head)
    torch.testing.assert_close(head(seen.batch.features), output[named_output(output)])
    assert torch.equal(seen.batch.labels, rows_for(model)["target_values"])


class ReadsBlocks(Seen):
    def build(self, spec):
        self.hidden_states = spec.anatomy.blocks
        return self


def test_hidden_states_have_a_token_for_each_patch_of_each_channel():
    model = patchtst().train()
    seen = ReadsBlocks(weight=0.0)
    with attach(model, [seen]) as attachment:
        model(**rows_for(model))
        assert {state.shape for state in seen.batch.hidden_states.values()} == {(4, 2 * 4, 8)}
        assert set(seen.batch.hidden_states) == set(attachment.anatomy.blocks)


class Doubled(Seen):
    """Every row twice, the second behind the first."""

    def transform(self, inputs):
        return {key: torch.cat([x, x]) for key, x in inputs.items()}


@pytest.mark.parametrize("make", [*EVERY, lambda: patchtst(loss="nll")])
def test_rows_an_objective_adds_do_not_reach_the_caller(make):
    model, seen = make().train(), Doubled()
    with attach(model, [seen]):
        output = model(**rows_for(model, 3))
        prediction = output[named_output(output)]
    assert len(prediction[0] if isinstance(prediction, tuple) else prediction) == 3
    assert len(seen.batch.features) == len(seen.batch.logits) == 6
    if seen.batch.labels is not None:
        assert len(seen.batch.labels) == 6


# -- the ways of attach


@pytest.mark.parametrize("make", EVERY)
def test_evaluation_is_bit_identical_to_the_bare_model(make):
    model = make().eval()
    batch = rows_for(model)
    torch.manual_seed(1)
    bare = model(**batch)
    with attach(model, [L2SP(), DomainAdversarial(hidden_size=4)]) as attachment:
        torch.manual_seed(1)
        inside = model(**batch, domain=torch.tensor([0, 1, 0, 1]))
        assert attachment.terms == {}
    assert list(bare) == list(inside)
    assert all(torch.equal(bare[name], inside[name]) for name in bare if isinstance(bare[name], torch.Tensor))


@pytest.mark.parametrize("make", EVERY)
def test_detached_model_is_as_never_attached(make):
    model = make().train()
    state, batch = copy.deepcopy(model.state_dict()), rows_for(model)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    attach(model, [L2SP(), DomainAdversarial(hidden_size=4)]).detach()
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert list(state) == list(model.state_dict())
    assert model(**batch).loss.isfinite()


@pytest.mark.parametrize("make", [FORECASTERS[0], CLASSIFIERS[0], REGRESSIONS[0]])
def test_tuple_outputs(make):
    model = make().train()
    with attach(model, [Seen(weight=2.0)]) as attachment:
        loss, prediction = model(**rows_for(model), return_dict=False)[:2]
        expected = attachment.terms["task"] + 2 * attachment.terms["seen"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6) and len(prediction) == 4


@pytest.mark.parametrize("make", [FORECASTERS[0], CLASSIFIERS[0]])
def test_under_lora(make):
    model = lora(make(), ["q_proj", "v_proj"], head="head").train()
    seen = Seen(weight=0.1)
    with attach(model, [seen, L2SP()]) as attachment:
        model(**rows_for(model)).loss.backward()
        assert list(attachment.terms) == ["task", "seen", "l2sp"]
    assert seen.batch.features.shape[0] == 4
    assert any(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("make", FORECASTERS)
def test_no_target_gives_no_loss_and_no_term(make):
    model = make().train()
    with attach(model, [L2SP()]) as attachment:
        assert model(past_values=rows_for(model)["past_values"]).loss is None
        assert attachment.terms == {}


def test_loss_that_is_not_asked_for_is_none():
    model = mixer().train()
    with attach(model, [L2SP()]):
        assert model(**rows_for(model), return_loss=False).loss is None


def test_targets_without_a_name_are_refused_and_not_ignored():
    model = patchtst().train()
    batch = rows_for(model)
    given = batch["past_values"], torch.ones(4, 16, 2, dtype=torch.bool), batch["future_values"]
    message = "PatchTSTForPrediction returned a loss for a batch without `future_values`.*ignored.*with keywords"
    with attach(model, [L2SP()]), pytest.raises(ValueError, match=message):
        model(*given)
    with attach(model, []):
        assert model(*given).loss.isfinite()
        with pytest.raises(ValueError, match="returned a loss for a batch without `future_values`"):
            model(*given, sample_weight=torch.ones(4))


# -- objectives that need classes


VALUE_MODELS = [FORECASTERS[0], REGRESSIONS[0], RECONSTRUCTIONS[0]]


def test_objectives_that_need_classes_are_refused():
    for make in VALUE_MODELS:
        with pytest.raises(ValueError, match="LabelSmoothing on PatchTSTFor.*reads classes.*has none.*Leave it out"):
            attach(make(), [L2SP(), LabelSmoothing()])


def test_changes_of_the_task_loss_need_classes():
    assert TaskTerm.needs_classes and not Objective.needs_classes


def case_batch(name: str, model: nn.Module) -> dict[str, torch.Tensor]:
    batch = {**rows_for(model), "domain": torch.tensor([0, 1, 0, 1])}
    if name == "MultiTask":
        batch |= {"labels_first": torch.tensor([0, 1, 2, -100]), "labels_second": torch.randn(4)}
    if CASES[name].target_side and "target_values" in batch:
        batch["target_values"] = torch.tensor([0, -100, 2, -100])
    return batch


def made_for(name: str, model: nn.Module) -> Objective:
    """The objective of the contract suite, without what its stand-ins make of `labels`."""
    objective = CASES[name].make(model)
    if name == "MultiTask":
        objective.transform = lambda inputs: inputs
    return objective


@pytest.mark.parametrize("name", objectives.__all__)
def test_every_objective_is_refused_or_works_on_a_forecaster(name):
    model = patchtst(num_hidden_layers=3).train()
    objective = made_for(name, model)
    if objective.needs_classes:
        with pytest.raises(ValueError, match=f"{name} on PatchTSTForPrediction: it reads classes"):
            attach(model, [objective])
        return
    batch = case_batch(name, model)
    with attach(model, [objective]) as attachment:
        if objective.learns_from_data:
            objective.fit(model, [batch, rows_for(model, seed=1)])
        loss = model(**batch).loss
        loss.backward()
        (key,) = attachment.objectives
        assert loss.isfinite() and attachment.terms[key].isfinite() and attachment.terms[key].dim() == 0
        assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


NOT_FOR_SERIES = {"Mixup": "needs images", "CutMix": "needs images"}


@pytest.mark.parametrize("name", [name for name in objectives.__all__ if name != "FixMatch"])
def test_every_objective_works_on_a_classifier_of_series(name):
    model = CLASSIFIERS[0](num_hidden_layers=3).train()
    if name in NOT_FOR_SERIES:
        with pytest.raises(ValueError, match=NOT_FOR_SERIES[name]):
            attach(model, [made_for(name, model)])
        return
    objective, batch = CASES[name].make(model), case_batch(name, model)
    with attach(model, [objective]) as attachment:
        if objective.learns_from_data:
            objective.fit(model, [rows_for(model, 12), rows_for(model, 12, seed=1)])
        loss = model(**batch).loss
        loss.backward()
        key = "task" if isinstance(objective, TaskTerm) else objective.name
        assert loss.isfinite() and attachment.terms[key].isfinite()
        assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_strong_views_of_series_are_learned_by_name():
    from hf_transfer import FixMatch

    model = CLASSIFIERS[0]().train()
    batch = rows_for(model)
    batch["target_values"] = torch.tensor([0, -100, 2, -100])
    view = {"past_values": batch["past_values"][[1, 3]] + 0.1, "row": torch.tensor([1, 3])}
    with attach(model, [FixMatch(threshold=0.0)]) as attachment:
        output = model(**batch, strong_view=view)
        output.loss.backward()
        assert attachment.terms["fix_match"] > 0 and len(output.prediction_logits) == 4


def test_a_forecaster_is_distilled_by_the_squared_difference_of_forecasts():
    model, teacher = patchtst().train(), patchtst(d_model=16).eval()
    batch = rows_for(model)
    batch["future_values"][0, 0, 0] = torch.nan
    with attach(model, [LogitDistillation(teacher)]) as attachment:
        student = model(**batch).prediction_outputs.detach()
        expected = (student - teacher(past_values=batch["past_values"]).prediction_outputs).square().mean()
        torch.testing.assert_close(attachment.terms["logit_distillation"], expected)


# -- anatomy


@pytest.mark.parametrize("make", RECONSTRUCTIONS)
def test_head_of_a_reconstruction_is_the_layer_that_fills_in(make):
    parts = anatomy(make())
    assert parts.head in ("head.linear", "head.base_pt_block") and len(parts.blocks) == 2
    assert parts.feature_dim == (8 if parts.head == "head.linear" else 4)
    assert parts.parts()["head"] and all(parts.parts()[f"block.{number}"] for number in range(2))


# -- every model of series that `transformers` has


SERIES = [one for one in RUN if one.task.startswith("TIME_SERIES")]
# output_projection_point and output_projection_quantiles both make the forecast: its head has to be named
NAMED_HEADS = {"TimesFm2_5ModelForPrediction": "output_projection_point"}


@pytest.mark.parametrize("one", SERIES, ids=lambda one: one.class_name)
def test_every_model_of_series_trains_with_a_term(one):
    torch.manual_seed(0)
    model = small_model(one)
    batch = training_batch(one, model)
    with attach(model, [L2SP(weight=0.5)], head=NAMED_HEADS.get(one.class_name)) as attachment:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(2):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        term = attachment.terms["l2sp"]
        assert loss.isfinite() and term > 0
        assert loss.item() == pytest.approx((attachment.terms["task"] + 0.5 * term).item(), rel=1e-5)


def test_the_sweep_holds_every_family():
    assert {one.model_type for one in SERIES} >= {
        *("autoformer", "informer", "patchtsmixer", "patchtst", "time_series_transformer", "timesfm", "timesfm2_5")
    }
