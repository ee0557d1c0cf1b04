"""BSS: its constants, what it reads, and that it shrinks the weakest direction of the features."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import DomainAdversarial, TransferBatch, attach
from hf_transfer.objectives.regularization.batch_spectral_shrinkage import BatchSpectralShrinkage
from tests.models import batch_for, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


def features_of(count=6, width=4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, width, dtype=torch.float64, generator=generator, requires_grad=True)


def test_the_constants_of_the_paper():
    assert BatchSpectralShrinkage().config() == {"k": 1, "weight": 1e-3}


@pytest.mark.parametrize("k", [1, 2, 3])
def test_value_is_the_sum_of_the_smallest_eigenvalues_of_the_covariance(k):
    features = features_of()
    expected = torch.linalg.eigvalsh(features.detach().mT @ features.detach())[:k].sum()
    value = BatchSpectralShrinkage(k=k)(TransferBatch(features=features))
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)


def test_a_step_shrinks_the_smallest_and_leaves_the_others():
    features = features_of()
    BatchSpectralShrinkage()(TransferBatch(features=features)).backward()
    before, after = (torch.linalg.svdvals(x) for x in (features.detach(), features.detach() - 0.1 * features.grad))
    torch.testing.assert_close(after[:-1], before[:-1])
    torch.testing.assert_close(after[-1], 0.8 * before[-1])


def test_token_features_are_averaged_over_the_tokens_that_count():
    features = torch.randn(3, 5, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    rows = torch.stack([features[n, : mask[n].sum()].mean(0) for n in range(3)])
    value = BatchSpectralShrinkage()(TransferBatch(features=features, attention_mask=mask))
    assert value.item() == pytest.approx(torch.linalg.svdvals(rows)[-1].item() ** 2)


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert, tiny_llama, tiny_vit, tiny_resnet])
def test_in_models_the_gradient_reaches_the_backbone(make):
    model = make().train()
    attachment = attach(model, [BatchSpectralShrinkage(weight=1.0)])
    inputs = {**batch_for(model), "labels": torch.full_like(batch_for(model)["labels"], -100)}
    model(**inputs).loss.backward()
    assert attachment.terms["batch_spectral_shrinkage"] > 0
    # without labels nothing else moves
    assert sum(p.grad.norm() for name, p in model.named_parameters() if p.grad is not None and "layer" in name) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_lora(dtype):
    model = lora(tiny_bert(), ["query"], "classifier").train().to(dtype)
    attachment = attach(model, [BatchSpectralShrinkage()])
    model(**batch_for(model)).loss.backward()
    term = attachment.terms["batch_spectral_shrinkage"]
    assert term.dtype == torch.float32 and term > 0


def test_beside_an_adversary():
    model = tiny_bert().train()
    attachment = attach(model, [BatchSpectralShrinkage(), DomainAdversarial(hidden_size=8)])
    assert model(**batch_for(model)).loss.isfinite() and len(attachment.terms) == 3


def test_one_row_is_an_exact_zero_with_a_graph():
    model = tiny_bert().train()
    attachment = attach(model, [BatchSpectralShrinkage()])
    model(**batch_for(model, 1)).loss.backward()
    assert attachment.terms["batch_spectral_shrinkage"].item() == 0


def test_equal_rows_give_finite_gradients():
    features = torch.ones(4, 8, requires_grad=True)
    value = BatchSpectralShrinkage(k=2)(TransferBatch(features=features))
    value.backward()
    assert value.item() < 1e-10 and features.grad.isfinite().all() and features.grad.abs().max() < 1e-5


def test_no_singular_value_is_refused():
    with pytest.raises(ValueError, match="`k=0` penalises no singular value.*paper's 1"):
        BatchSpectralShrinkage(k=0)
