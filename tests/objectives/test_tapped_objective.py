"""Where the domains are compared: taps by number, by name, under PEFT, and what cannot be read."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import ModelSpec, TransferBatch, attach
from hf_transfer.objectives.domain_adaptation.tapped_objective import TappedObjective
from tests.models import batch_for, lora, tiny_bert, tiny_gpt2, tiny_resnet, tiny_token_bert, tiny_vit, tiny_wav2vec2


class BetweenMeans(TappedObjective):
    """The distance of the means, with the features it saw."""

    def distance(self, features, domain, batch):
        self.seen.append(features)
        return (features[domain == 0].mean(0) - features[domain == 1].mean(0)).square().sum()

    def forward(self, batch):
        self.seen = []
        return super().forward(batch)


def attached(model, taps, **batch):
    attachment = attach(model.train(), [BetweenMeans(taps=taps)])
    inputs = {**batch_for(model), **batch}
    model(**inputs).loss.backward()
    (objective,) = attachment.objectives.values()
    return attachment, objective, inputs


def test_sum_over_the_taps():
    torch.manual_seed(0)
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    attachment, objective, _ = attached(model, ("head", "block.0", -1, "block.-1", "bert.encoder.layer.2.attention"))
    assert objective.hidden_states == (
        "bert.encoder.layer.0",
        "bert.encoder.layer.2",
        "bert.encoder.layer.2.attention",
    )
    parts = []
    for features in objective.seen:
        domain = torch.arange(4) % 2
        parts.append((features[domain == 0].mean(0) - features[domain == 1].mean(0)).square().sum().item())
    assert len(parts) == 4
    assert attachment.terms["between_means"].item() == pytest.approx(sum(parts), rel=1e-6)


def test_blocks_are_averaged_over_the_tokens_that_count():
    torch.manual_seed(0)
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    _, objective, inputs = attached(model, 1)
    states = model.bert(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True).hidden_states[2]
    rows = [state[mask.bool()].mean(0) for state, mask in zip(states, inputs["attention_mask"], strict=True)]
    torch.testing.assert_close(objective.seen[0], torch.stack(rows))


def test_convolutions_are_averaged_over_space():
    torch.manual_seed(0)
    model = tiny_resnet()
    outputs = []
    model.resnet.encoder.stages[1].layers[1].register_forward_hook(lambda module, args, output: outputs.append(output))
    _, objective, _ = attached(model, "block.-1")
    torch.testing.assert_close(objective.seen[0], outputs[0].mean((2, 3)))


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_gpt2, tiny_resnet, tiny_token_bert, tiny_wav2vec2])
@pytest.mark.parametrize("taps", ["blocks", ("head", -1)])
def test_every_kind_of_model_has_blocks_to_read(make, taps):
    torch.manual_seed(0)
    model = make()
    if make is tiny_wav2vec2:
        model.config.layerdrop = 0.0
    attachment, objective, _ = attached(model, taps)
    count = len(attachment.anatomy.blocks) if taps == "blocks" else 2
    assert len(objective.seen) == count
    assert all(x.dim() == 2 and len(x) == 4 and x.dtype == torch.float32 for x in objective.seen)
    block = model.get_submodule(attachment.anatomy.blocks[0])
    assert any(p.grad is not None and p.grad.any() for p in block.parameters())


def test_under_lora_a_module_keeps_the_name_it_has_in_the_model():
    torch.manual_seed(0)
    model = lora(tiny_bert(), ["query", "value"], head="classifier")
    _, objective, _ = attached(model, ("bert.encoder.layer.1", 2))
    prefix = "base_model.model.bert.encoder.layer"
    assert objective.hidden_states == (f"{prefix}.1", f"{prefix}.2")
    assert len(objective.seen) == 2


def test_a_block_that_is_left_out_of_a_step_is_left_out():
    model = tiny_wav2vec2(layerdrop=1.0)
    attachment, objective, _ = attached(model, "blocks")
    assert objective.seen == [] and attachment.terms["between_means"].item() == 0


def test_one_tap_need_not_be_in_a_list():
    assert BetweenMeans(taps=0).config()["taps"] == 0
    assert BetweenMeans(taps=0).build(spec_of(tiny_bert())).hidden_states == ("bert.encoder.layer.0",)


def spec_of(model):
    with attach(model, []) as attachment:
        return ModelSpec(feature_dim=16, num_labels=3, model=model, anatomy=attachment.anatomy)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (("head", "bert.encoder.layers.1"), r"no tap 'bert.encoder.layers.1': .*nothing could be read.*layer.1"),
        ("dense", r"no tap 'dense': the model has no module of that name.*Pass \"head\""),
        (7, r"The model has 3 blocks, so there is no block 7.*Pass a number from 0 to 2"),
    ],
)
def test_unknown_taps_are_refused_when_attached(taps, message):
    with pytest.raises(ValueError, match=message):
        attach(tiny_bert(), [BetweenMeans(taps=taps)])


@pytest.mark.parametrize("taps", [(), [], ""])
def test_no_tap_is_refused(taps):
    with pytest.raises(ValueError, match='names no place to compare the domains at.*always be zero.*Give "head"'):
        BetweenMeans(taps=taps)


def test_a_module_without_rows_is_refused_at_the_first_batch():
    with pytest.raises(ValueError, match=r"BetweenMeans reads `bert.embeddings.position_embeddings`.*no feature for"):
        attached(tiny_bert(), "embeddings.position_embeddings")
    objective = BetweenMeans(taps=0)
    objective.hidden_states = ("block",)
    batch = TransferBatch(
        features=torch.zeros(4, 2), domain=torch.arange(4) % 2, hidden_states={"block": torch.zeros(6, 4, 3)}
    )
    with pytest.raises(ValueError, match=r"which returns \(6, 4, 3\): there is no feature for each of the 4 rows"):
        objective(batch)


def test_a_subclass_defines_its_distance():
    with pytest.raises(NotImplementedError, match="TappedObjective must define `distance"):
        TappedObjective()(TransferBatch(features=torch.zeros(2, 2), domain=torch.tensor([0, 1])))
