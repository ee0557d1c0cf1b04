"""Mixup and CutMix: images and targets mixed alike, who is mixed with whom, and with what they combine."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hf_transfer import DomainAdversarial, ModelSpec, TransferArguments, TransferTrainer, attach
from hf_transfer.objective import adjusted_task_loss
from hf_transfer.objectives.regularization.r_drop import RDrop
from hf_transfer.objectives.task.class_balanced import ClassBalanced
from hf_transfer.objectives.task.focal_loss import FocalLoss
from hf_transfer.objectives.task.label_smoothing import LabelSmoothing
from hf_transfer.objectives.task.mixup import CutMix, Mixup
from tests.invariants.run import rows
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_vit, tiny_wav2vec2


both = pytest.mark.parametrize("objective", [Mixup, CutMix])


def images(count=4, labels=None, **columns):
    labels = torch.arange(count) % 3 if labels is None else torch.tensor(labels)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 3, 8, 8, generator=generator)
    return {"pixel_values": pixels, "labels": labels, **columns}


def test_mixup_blends_images_by_the_share_of_their_labels():
    inputs = images()
    mixed = Mixup().transform(inputs)
    partners, share = mixed["mixed_with"], mixed["mixed_share"]
    for i in range(4):
        expected = share[i] * inputs["pixel_values"][i] + (1 - share[i]) * inputs["pixel_values"][partners[i]]
        torch.testing.assert_close(mixed["pixel_values"][i], expected)
    assert torch.equal(mixed["labels"], inputs["labels"]) and len(set(share.tolist())) == 1


def test_cutmix_counts_the_pixels():
    inputs = images()
    for _ in range(10):
        mixed = CutMix().transform(inputs)
        own = (mixed["pixel_values"] == inputs["pixel_values"]).all(1)
        moved = mixed["mixed_with"] != torch.arange(4)
        for i in moved.nonzero().flatten():
            assert own[i].float().mean().item() == pytest.approx(mixed["mixed_share"][i].item(), abs=1e-6)


@both
def test_the_batch_that_came_in_is_not_changed(objective):
    inputs = images()
    before = {key: value.clone() for key, value in inputs.items()}
    objective().transform(inputs)
    assert inputs.keys() == before.keys() and all(torch.equal(inputs[key], before[key]) for key in before)


@both
@pytest.mark.parametrize("make", [tiny_vit, tiny_resnet])
@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [0, -100, 2, -100]])
def test_loss_is_the_mixture_of_the_losses_of_both_labels(objective, make, labels):
    model = make().train()
    inputs = images(labels=labels)
    attach(model, [term := objective(alpha=1.0)])
    seen = []
    model.register_forward_hook(lambda _, args, kwargs, out: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    torch.manual_seed(7)
    output = model(**inputs)
    torch.manual_seed(7)
    drawn = term.transform(inputs)
    assert torch.equal(seen[0], drawn["pixel_values"]) and len(output.logits) == 4
    share, other = drawn["mixed_share"][0], inputs["labels"][drawn["mixed_with"]]
    first, second = (F.cross_entropy(output.logits, y) for y in (inputs["labels"], other))
    torch.testing.assert_close(output.loss, share * first + (1 - share) * second)


@both
def test_evaluation_and_predictions_see_the_images_as_they_are(objective):
    model = tiny_vit()
    inputs = images()
    bare = model.eval()(**inputs)
    attach(model, [objective()])
    inside = model.eval()(**inputs)
    assert torch.equal(bare.loss, inside.loss) and torch.equal(bare.logits, inside.logits)


@both
def test_rows_are_mixed_within_their_domain_and_labelled_with_labelled(objective):
    labels, domain = torch.tensor([0, -100, 1, -100, 2, -100, 1, 0]), torch.tensor([0, 1, 0, 1, 0, 0, 1, 1])
    for _ in range(10):
        partners = objective().transform(images(8, labels.tolist(), domain=domain))["mixed_with"]
        assert torch.equal(domain[partners], domain)
        assert torch.equal(labels[partners] == -100, labels == -100)


def test_half_labelled_entries_count_with_their_share():
    """Several labels a row, some of them unknown: each entry is mixed by itself."""
    labels = [[1.0, 0.0, -100.0], [0.0, -100.0, -100.0]]
    model = tiny_vit(problem_type="multi_label_classification").train()
    attach(model, [term := Mixup(alpha=1.0)])
    torch.manual_seed(5)  # swaps the two rows
    output = model(**images(2, labels))
    torch.manual_seed(5)
    drawn = term.transform(images(2, labels))
    partners, share = drawn["mixed_with"].tolist(), drawn["mixed_share"][0].item()
    assert partners == [1, 0]
    total, count = 0.0, 0
    for n in range(2):
        for c in range(3):
            pairs = [(share, labels[n][c]), (1 - share, labels[partners[n]][c])]
            known = [(part, y) for part, y in pairs if y != -100]
            count += bool(known)
            p = output.logits[n, c].sigmoid()
            total -= sum(part * (p if y else 1 - p).log().item() for part, y in known)
    assert output.loss.item() == pytest.approx(total / count, rel=1e-5)


@both
def test_unlabelled_batch_is_an_exact_zero(objective):
    model = tiny_vit().train()
    attachment = attach(model, [objective()])
    model(**images(labels=[-100] * 4)).loss.backward()
    assert attachment.terms["task"].item() == 0
    assert all(p.grad.isfinite().all() and not p.grad.any() for p in model.parameters() if p.grad is not None)


@both
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(objective, rows):
    model = tiny_vit().train()
    attach(model, [objective()])
    loss = model(**images(rows)).loss
    loss.backward()
    assert loss.isfinite() and loss > 0


@both
def test_one_class_is_its_cross_entropy(objective):
    model = tiny_vit().train()
    attach(model, [objective()])
    output = model(**images(labels=[2] * 4))
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, torch.full((4,), 2)))


@both
@pytest.mark.parametrize("order", [1, -1])
def test_combines_with_the_other_task_terms_in_any_order(objective, order):
    torch.manual_seed(0)
    model = tiny_vit().train()
    terms = [objective(), LabelSmoothing(), ClassBalanced(counts=[5, 50, 500]), FocalLoss()]
    attach(model, terms)
    batches = []
    original = terms[0].adjust
    terms[0].adjust = lambda rows, batch: batches.append(batch) or original(rows, batch)
    total = model(**images()).loss
    torch.testing.assert_close(adjusted_task_loss(terms[::order], batches[0]), total)
    # against the formula: both labels, smoothed, each class with its weight and its focus
    batch = batches[0]
    log_p = batch.logits.log_softmax(-1)
    share, partners = batch.mixed_share.unsqueeze(-1), batch.mixed_with
    labels = F.one_hot(batch.labels, 3).float()
    targets = 0.9 * (share * labels + (1 - share) * labels[partners]) + 0.1 / 3
    effective = torch.tensor([(1 - 0.999**n) / 0.001 for n in (5, 50, 500)])
    weights = (1 / effective) / (1 / effective).mean()
    expected = -(weights * (1 - log_p.exp()) ** 2 * targets * log_p).sum(-1).mean()
    torch.testing.assert_close(total, expected)


@both
def test_before_r_drop_both_passes_see_the_same_mixture(objective):
    model = tiny_vit().train()  # without dropout
    attachment = attach(model, [objective(), RDrop()])
    attachment.objectives["rdrop"]._dropout_checked = True
    loss = model(**images()).loss
    assert attachment.terms["rdrop"].item() == 0
    loss.backward()
    torch.manual_seed(3)
    doubled = model(**images()).loss
    attachment.detach()
    attach(model, [objective()])
    torch.manual_seed(3)
    torch.testing.assert_close(model(**images()).loss, doubled)


@both
def test_with_domains(objective):
    model = tiny_vit().train()
    attachment = attach(model, [objective(), DomainAdversarial(hidden_size=8)])
    model(**images(4, [0, -100, 1, -100], domain=torch.tensor([0, 1, 0, 1]))).loss.backward()
    assert attachment.terms["domain_adversarial"] > 0


@both
def test_half_precision_images_and_lora(objective):
    model = lora(tiny_vit(), ["q_proj", "v_proj"], "classifier").train().bfloat16()
    attachment = attach(model, [objective()])
    inputs = images()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    assert objective().transform(inputs)["pixel_values"].dtype == torch.bfloat16
    loss = model(**inputs).loss
    loss.backward()
    assert loss.isfinite() and attachment.terms["task"].dtype == torch.float32


@both
def test_positional_images(objective):
    model = tiny_vit().train()
    attach(model, [objective()])
    inputs = images()
    assert model(inputs["pixel_values"], labels=inputs["labels"]).loss.isfinite()


@both
def test_a_resumed_run_is_the_straight_one_bit_for_bit(objective, tmp_path):
    def trainer():
        torch.manual_seed(0)
        args = TransferArguments(
            output_dir=str(tmp_path), max_steps=6, save_steps=3, save_strategy="steps", per_device_train_batch_size=4,
            gradient_accumulation_steps=2, learning_rate=1e-2, report_to="none", use_cpu=True,
            dataloader_pin_memory=False, disable_tqdm=True,
        )  # fmt: skip
        return TransferTrainer(tiny_vit(), args, objectives=[objective()], train_dataset=rows(16, 0, True, True))

    straight, resumed = trainer(), trainer()
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for (key, first), second in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(first, second), key


@both
@pytest.mark.parametrize(("make", "reads"), [(tiny_bert, "input_ids"), (tiny_wav2vec2, "input_values")])
def test_models_that_read_no_images_are_refused_when_attached(objective, make, reads):
    with pytest.raises(ValueError, match=f"{objective.__name__} needs images: .* reads `{reads}`.*LabelSmoothing"):
        attach(make(), [objective()])


@both
def test_a_batch_without_images_is_refused(objective):
    with pytest.raises(ValueError, match=f"{objective.__name__} needs images: the batch has input_ids, labels"):
        objective().transform({"input_ids": torch.ones(2, 3), "labels": torch.tensor([0, 1])})


@pytest.mark.parametrize("order", [1, -1])
def test_one_of_the_two(order):
    model = tiny_vit().train()
    attach(model, [Mixup(), CutMix()][::order])
    with pytest.raises(ValueError, match="finds the images mixed already.*Take one of `Mixup` and `CutMix`"):
        model(**images())


@both
def test_behind_r_drop_is_refused(objective):
    model = tiny_vit().train()
    attach(model, [RDrop(), objective()])
    with pytest.raises(ValueError, match=f"{objective.__name__} after RDrop.*List {objective.__name__} before"):
        model(**images())


@both
@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_is_positive(objective, alpha):
    with pytest.raises(ValueError, match="`alpha=.*` is no parameter of a Beta distribution.*positive number"):
        objective(alpha=alpha)


def test_flattened_patches_cannot_be_cut():
    inputs = {"pixel_values": torch.randn(2, 16, 12), "labels": torch.tensor([0, 1])}
    assert Mixup().transform(inputs)["pixel_values"].shape == (2, 16, 12)
    with pytest.raises(ValueError, match=r"CutMix finds `pixel_values` of shape \(2, 16, 12\).*Take `Mixup`"):
        CutMix().transform(inputs)


@both
def test_a_regression_is_refused(objective):
    with pytest.raises(ValueError, match="on a regression"):
        objective().build(ModelSpec(feature_dim=4, num_labels=1))


def test_without_the_columns_of_transform_rows_stay_as_they_are():
    model = tiny_vit().train()
    inputs = batch_for(model)
    with attach(model, [LabelSmoothing(smoothing=0.0)]):
        plain = model(**inputs).loss
    attach(model, [term := Mixup()])
    term.transform = lambda inputs: {**inputs, **dict.fromkeys(term.columns)}
    torch.testing.assert_close(model(**inputs).loss, plain)
