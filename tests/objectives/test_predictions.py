"""Which rows an objective on predictions looks at, what kind of predictions it sees, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from hf_transfer import DIST, DecoupledDistillation, LogitDistillation, LogitStandardization, attach
from hf_transfer.batch import ModelSpec
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.prediction_checks import SaidTeacher, batch_with, built, random_degenerate_batch


ALL = [LogitDistillation, LogitStandardization, DecoupledDistillation, DIST]
CHOOSING = [LogitDistillation, LogitStandardization, DIST]


def counted(batch, **options):
    objective = built(LogitDistillation, torch.zeros_like(batch.logits), **options)
    return objective.predictions(batch).counted.tolist()


def test_rows_by_their_label():
    batch = batch_with(torch.randn(3, 4), [1, -100, 0])
    assert counted(batch) == [True, True, True]
    assert counted(batch, rows="labelled") == [True, False, True]
    assert counted(batch, rows="unlabelled") == [False, True, False]
    assert counted(batch_with(torch.randn(2, 4)), rows="unlabelled") == [True, True], "no labels at all"


def test_rows_by_their_domain():
    batch = batch_with(torch.randn(4, 3), [1, -100, 0, -100], domain=torch.tensor([0, 1, 2, 2]))
    assert counted(batch, domains=(1,)) == [False, True, False, False]
    assert counted(batch, domains=[1, 2]) == [False, True, True, True]
    assert counted(batch, domains=(2,), rows="unlabelled") == [False, False, False, True]
    assert built(LogitDistillation, batch.logits, domains=(1,)).optional_columns[-1] == "domain"


def test_tokens_by_mask_label_and_domain():
    labels = [[0, -100, 2, -100], [-100, -100, -100, -100]]
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    batch = batch_with(torch.randn(2, 4, 3), labels, attention_mask=mask, domain=torch.tensor([0, 1]))
    assert counted(batch) == mask.bool().tolist()
    assert counted(batch, rows="labelled") == [[True, False, True, False], [False] * 4]
    assert counted(batch, rows="unlabelled") == [[False] * 4, [True, True, False, False]]
    assert counted(batch, domains=(1,)) == [[False] * 4, [True, True, False, False]]
    assert counted(batch_with(torch.randn(2, 4, 3), labels)) == [[True] * 4] * 2, "without a mask every token counts"


def test_labels_of_several_values_a_row():
    labels = torch.tensor([[1.0, 0.0, -100.0], [-100.0, -100.0, -100.0]])
    batch = batch_with(torch.randn(2, 3), labels)
    assert counted(batch, rows="labelled") == [True, False]
    assert counted(batch, rows="unlabelled") == [False, True]
    found = built(LogitDistillation, torch.zeros(2, 3)).predictions(batch)
    assert found.multi_label and not found.regression and not found.labels.any()


def test_a_column_of_labels_is_read_as_labels():
    found = built(LogitDistillation, torch.zeros(2, 3)).predictions(batch_with(torch.randn(2, 3), [[2], [-100]]))
    assert found.labels.tolist() == [2, 0] and found.labelled.tolist() == [True, False] and not found.multi_label


@pytest.mark.parametrize(
    ("outputs", "problem", "kind"),
    [
        (1, None, (False, True)),
        (1, "single_label_classification", (False, True)),
        (1, "regression", (False, True)),
        (1, "multi_label_classification", (True, False)),
        (3, None, (False, False)),
        (3, "single_label_classification", (False, False)),
        (3, "multi_label_classification", (True, False)),
        (3, "regression", (False, True)),
    ],
)
def test_kind_of_predictions(outputs, problem, kind):
    model = tiny_bert(num_labels=outputs)
    model.config.problem_type = problem  # not every version of transformers takes all of these in a new config
    found = built(LogitDistillation, torch.zeros(2, outputs), model=model).predictions(
        batch_with(torch.randn(2, outputs), [-100, -100])
    )
    assert (found.multi_label, found.regression) == kind


@pytest.mark.parametrize("cls", CHOOSING)
def test_only_the_chosen_rows_get_a_gradient(cls):
    logits = torch.randn(6, 4, requires_grad=True)
    batch = batch_with(logits, [0, -100, 2, -100, 1, -100], domain=torch.tensor([0, 0, 0, 1, 1, 1]))
    objective = built(cls, torch.randn(6, 4), rows="unlabelled", domains=(1,))
    objective(batch).backward()
    assert logits.grad[[3, 5]].any(-1).all() and not logits.grad[[0, 1, 2, 4]].any()


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("options", [{}, {"domains": (1,)}])
def test_a_thousand_degenerate_batches(cls, options):
    generator = torch.Generator().manual_seed(0)
    positive = 0
    for number in range(125 if cls is not LogitDistillation else 500):
        student, teacher, batch = random_degenerate_batch(generator)
        divergence = {"divergence": ("kl", "jsd", "mse")[number % 3]} if issubclass(cls, LogitDistillation) else {}
        objective = built(cls, teacher, **options, **divergence)
        value = objective(batch)
        value.backward()
        assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()
        if not objective.predictions(batch).counted.any():
            assert value.item() == 0 and not student.grad.any()
        positive += bool(value > 1e-4 and student.grad.any())
    assert positive > 20


@pytest.mark.parametrize("cls", ALL)
def test_bfloat16_logits_are_compared_in_float32(cls):
    student, teacher = torch.randn(4, 5).bfloat16().requires_grad_(), torch.randn(4, 5).bfloat16()
    labels = [0, 1, 2, 3]
    value = built(cls, teacher)(batch_with(student, labels))
    value.backward()
    full = built(cls, teacher.float())(batch_with(student.detach().float(), labels))
    assert value.dtype == torch.float32 and value.item() == pytest.approx(full.item(), rel=1e-5)
    assert student.grad.isfinite().all() and student.grad.any()


@pytest.mark.parametrize("cls", ALL)
def test_compiles_without_reading_values_back(cls):
    from torch.fx.experimental.proxy_tensor import make_fx

    objective = built(cls, torch.randn(4, 5), domains=(1,))
    labels, domain = torch.tensor([0, -100, 2, 3]), torch.tensor([0, 1, 1, 1])

    def term(logits, labels, domain):
        return objective(batch_with(logits, labels, domain=domain))

    traced = make_fx(term)(torch.randn(4, 5), labels, domain)  # fails where a branch depends on a value
    logits = torch.randn(4, 5)
    torch.testing.assert_close(traced(logits, -100 - 0 * labels, domain), term(logits, -100 - 0 * labels, domain))


# what is refused


@pytest.mark.parametrize("cls", CHOOSING)
def test_unknown_rows(cls):
    with pytest.raises(ValueError, match=r"`rows='some'` is no choice.*not known.*Give one of 'all', 'labelled'"):
        cls(tiny_bert(), rows="some")


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("domains", [(), (-1,)])
def test_domains_that_are_none(cls, domains):
    with pytest.raises(ValueError, match=r"names no domain: the term would be zero.*`\(1,\)` for the target"):
        cls(tiny_bert(), domains=domains)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperatures_that_are_not_positive(cls, temperature):
    with pytest.raises(ValueError, match=f"`temperature={temperature}` is not positive.*divided.*Give a positive"):
        cls(tiny_bert(), temperature=temperature)


def test_a_batch_without_domains():
    objective = built(LogitDistillation, torch.zeros(2, 3), domains=(1,))
    with pytest.raises(ValueError, match=r"`domains=\(1,\)` needs column `domain`.*cannot tell.*mix_domains"):
        objective(batch_with(torch.zeros(2, 3), [0, 1]))


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 3), (3, 3)])
def test_predictions_of_another_shape(shape):
    objective = built(LogitDistillation, torch.zeros(shape))
    with pytest.raises(ValueError, match="The teacher's predictions are of shape.*student's.*Give a teacher for the"):
        objective(batch_with(torch.zeros(2, 3), [0, 1]))


def test_a_token_teacher_for_a_text_student():
    student = tiny_bert().train()
    with pytest.raises(ValueError):  # by the teacher at attach time, or by the shape
        attach(student, [LogitDistillation(tiny_token_bert())])
        student(**batch_for(student))


@pytest.mark.parametrize("cls", [LogitStandardization, DecoupledDistillation, DIST])
@pytest.mark.parametrize("options", [{"num_labels": 1}, {"num_labels": 4, "problem_type": "regression"}])
def test_a_regression(cls, options):
    model = tiny_bert(**options)
    with pytest.raises(ValueError, match=f"{cls.__name__} on a regression.*one is right.*Use `LogitDistillation`"):
        cls(model).build(ModelSpec(feature_dim=16, num_labels=options["num_labels"], model=model))


@pytest.mark.parametrize("cls", [LogitStandardization, DecoupledDistillation, DIST])
def test_several_labels_a_row(cls):
    model = tiny_bert(problem_type="multi_label_classification")
    with pytest.raises(ValueError, match=f"{cls.__name__} on several labels a row.*Use `LogitDistillation`"):
        cls(model).build(ModelSpec(feature_dim=16, num_labels=3, model=model))
    objective = built(cls, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=f"{cls.__name__} on several labels a row.*Use `LogitDistillation`"):
        objective(batch_with(torch.randn(2, 3), torch.ones(2, 3)))


@pytest.mark.parametrize(("cls", "classes"), [(LogitStandardization, 2), (DecoupledDistillation, 1), (DIST, 1)])
def test_too_few_classes(cls, classes):
    with pytest.raises(ValueError, match=f"{cls.__name__} on (a regression|{classes} classes).*Use `LogitDist"):
        built(cls, torch.zeros(2, classes))


def test_a_language_model_with_an_encoder():
    config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model = T5ForConditionalGeneration(config)
    with pytest.raises(ValueError, match="an encoder and a decoder.*reads the labels.*causal language model"):
        LogitDistillation(SaidTeacher(torch.zeros(1, 2, 50))).build(ModelSpec(16, 50, model=model))
