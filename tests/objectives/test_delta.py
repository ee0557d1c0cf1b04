"""DELTA against the sum written out, zero at the start for every model, what it keeps, and what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BartConfig, BartForSequenceClassification

from hf_transfer import ModelSpec, TransferArguments, TransferTrainer, anatomy, attach
from hf_transfer.checkpoint import OBJECTIVES_NAME
from hf_transfer.functional.source_knowledge import attention_of_increases
from hf_transfer.objectives.regularization.channel_attention import loss_increases
from hf_transfer.objectives.regularization.delta import DELTA
from hf_transfer.source import Source
from tests.invariants.run import rows
from tests.models import TINY, VOCABULARY, batch_for, lora, tiny_bert, tiny_resnet, tiny_vit


LORA_TARGETS = r".*(query|q_proj|c_attn|convolution)"


def moved(model: nn.Module, by: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "transfer_objectives" not in name:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def adapted(model: nn.Module, kind: str) -> nn.Module:
    return lora(model, LORA_TARGETS, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))


def attached(model: nn.Module, *, fit: bool = True, **options):
    objective = DELTA(attention_rows=8, **options)
    attachment = attach(model.train(), [objective])
    if fit:
        objective.fit(model, [batch_for(model, 6, seed=seed) for seed in range(2)])
    return objective, attachment


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("under_lora", [False, True])
def test_is_zero_at_the_start_with_dropout_and_batch_norm_training(kind, under_lora):
    model = adapted(TINY[kind](), kind) if under_lora else TINY[kind]()
    objective, attachment = attached(model, attention=not under_lora, weight=0.1)
    for seed in range(2):
        model(**batch_for(model, seed=seed, labelled=seed == 0)).loss.backward()
        assert attachment.terms["delta"].item() == 0
    moved(model)
    torch.manual_seed(0)  # with this seed wav2vec2 drops none of its blocks
    model.zero_grad()
    before = {name: value.clone() for name, value in objective._source.model.state_dict().items()}
    model(**batch_for(model)).loss.backward()
    assert attachment.terms["delta"] > 0
    gradients = [p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(p.grad is None for p in objective._source.model.parameters() if not p.requires_grad)
    assert all(torch.equal(value, before[name]) for name, value in objective._source.model.state_dict().items())


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet])
@pytest.mark.parametrize("attention", [False, True])
def test_value_against_the_sum_over_blocks_channels_rows_and_positions(make, attention):
    model = make()
    start = Source(model)
    objective, attachment = attached(model, attention=attention)
    moved(model)
    now = Source(_bare(model))
    batch = batch_for(model)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "domain")}
    model.eval()
    model.training = True  # objectives run, nothing is random
    model(**batch)
    names = objective.hidden_states
    states = [source(inputs, hidden_states=names).hidden_states for source in (now, start)]
    expected = 0.0
    for number, name in enumerate(names):
        weights = objective.get_buffer(f"attention_{number}").tolist() if attention else None
        for row in range(4):
            a, b = (state[name][row].double() for state in states)
            if a.dim() == 3:
                a, b = (maps.flatten(1).T for maps in (a, b))
            if "attention_mask" in batch:
                a, b = (maps[batch["attention_mask"][row] == 1] for maps in (a, b))
            for channel in range(a.shape[1]):
                distance = sum(
                    (x - y) ** 2 for x, y in zip(a[:, channel].tolist(), b[:, channel].tolist(), strict=True)
                )
                expected += (weights[channel] if weights else 1.0) * distance / len(a) / 4
    assert attachment.terms["delta"].item() == pytest.approx(expected, rel=1e-4)


def _bare(model: nn.Module) -> nn.Module:
    """The weights a model has now, without its objectives."""
    fresh = type(model)(model.config)
    fresh.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("transfer_objectives")})
    return fresh


def test_gradient_is_that_of_the_squared_distance():
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).double()
    _, attachment = attached(model, attention=False, blocks="last", weight=1.0)
    moved(model)
    batch = {**batch_for(model), "labels": torch.full((4,), -100)}
    parameter = model.bert.encoder.layer[0].output.dense.bias
    loss = model(**batch).loss
    (gradient,) = torch.autograd.grad(loss, parameter)
    for index in (0, 7):
        values = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                parameter[index] += step
                model(**batch)
                values.append(attachment.terms["delta"].item())
                parameter[index] -= step
        # the term itself is float32: the difference of two of them has four digits
        assert gradient[index].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=2e-2, abs=1e-3)


def test_attention_is_what_the_loss_rises_by():
    model = tiny_resnet()
    source = Source(model)
    objective, _ = attached(model)
    batches = [batch_for(model, 6, seed=seed) for seed in range(2)]
    rises = loss_increases(source, objective.hidden_states, batches, rows=8, device=torch.device("cpu"))
    for number, rise in enumerate(rises):
        weights = objective.get_buffer(f"attention_{number}")
        torch.testing.assert_close(weights, attention_of_increases(rise.float()))
        assert weights.mean().item() == pytest.approx(1) and weights.std() > 0


def test_padded_tokens_do_not_count():
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_bert(**quiet)
    objective, attachment = attached(model, attention=False)
    moved(model)
    batch = batch_for(model)
    model(**batch)
    first = attachment.terms["delta"].item()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[0] += 5
    model(**batch)
    assert attachment.terms["delta"].item() == pytest.approx(first, rel=1e-4) and first > 0


def test_head_decay_pulls_the_head_to_zero():
    model = tiny_bert()
    _, attachment = attached(model, attention=False, head_decay=0.3)
    model(**batch_for(model))
    expected = 0.15 * sum(p.double().square().sum() for p in model.classifier.parameters())
    assert attachment.terms["delta"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_descending_it_goes_back_to_the_behaviour_of_the_start():
    model = tiny_vit()
    _, attachment = attached(model, attention=False, weight=1.0)
    moved(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batch, values = batch_for(model, 8, labelled=False), []
    for _ in range(30):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(attachment.terms["delta"].item())
    assert values[-1] < 0.3 * values[0]


def test_the_random_numbers_of_training_are_not_touched():
    states = []
    for objectives in ([], [DELTA(attention=False)]):
        torch.manual_seed(0)
        model = tiny_bert().train()
        attach(model, objectives)
        torch.manual_seed(1)
        model(**batch_for(model))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_blocks_the_model_drops_count_as_zero():
    model = TINY["wav2vec2"](layerdrop=1.0)
    _, attachment = attached(model)
    moved(model)
    model(**batch_for(model)).loss.backward()
    assert attachment.terms["delta"].item() == 0


@pytest.mark.parametrize("rows_", [1, 2])
@pytest.mark.parametrize("make", [tiny_bert, tiny_resnet])
def test_few_rows_without_labels(make, rows_):
    model = make()
    _, attachment = attached(model)
    moved(model)
    model(**batch_for(model, rows_, labelled=False)).loss.backward()
    assert attachment.terms["delta"] > 0 and attachment.terms["task"] == 0


def test_in_bfloat16_and_under_autocast():
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    _, attachment = attached(model, attention=False)
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch_for(model)).loss.backward()
    under_autocast = attachment.terms["delta"]
    assert under_autocast.dtype == torch.float32 and under_autocast.item() < 1e-2
    model.to(torch.bfloat16)
    attachment.objectives.float()
    model(**batch_for(model))
    assert attachment.terms["delta"].isfinite()


# which blocks


def test_blocks_by_stage_evenly_spaced_last_and_by_number():
    stages = attached(tiny_resnet(), fit=False)[0].hidden_states
    assert stages == ("resnet.encoder.stages.0.layers.0", "resnet.encoder.stages.1.layers.1")
    deep = tiny_bert(num_hidden_layers=12)
    assert attached(deep, fit=False)[0].hidden_states == tuple(f"bert.encoder.layer.{n}" for n in (2, 5, 8, 11))
    last = attached(tiny_bert(), fit=False, blocks="last")[0].hidden_states
    assert last == ("bert.encoder.layer.2",)
    chosen = attached(tiny_bert(), fit=False, blocks=[0, -1, 2])[0].hidden_states
    assert chosen == ("bert.encoder.layer.0", "bert.encoder.layer.2")


def test_two_stacks_give_the_last_block_of_each():
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, num_labels=3,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    model = BartForSequenceClassification(config)
    objective, attachment = attached(model, fit=False, attention=False)
    assert objective.hidden_states == ("model.encoder.layers.1", "model.decoder.layers.1")
    inputs = torch.randint(3, VOCABULARY, (4, 6))
    inputs[:, -1] = 2  # the classifier reads the last end token
    model(input_ids=inputs, labels=torch.arange(4) % 3).loss.backward()
    assert attachment.terms["delta"].item() == 0


def test_a_regression_has_an_attention_too():
    model = tiny_bert(num_labels=1, problem_type="regression")
    objective = DELTA(blocks="last", attention_rows=4)
    attach(model.train(), [objective])
    objective.fit(model, [{**batch_for(model, 6), "labels": torch.randn(6)}])
    assert objective.attention_0.std() > 0


# state


def trainer_for(folder, model, **options):
    args = TransferArguments(
        output_dir=str(folder),
        max_steps=4,
        save_steps=2,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=3,
        **options,
    )
    objectives = [DELTA(blocks="last", attention_rows=4)]
    return TransferTrainer(model, args, objectives=objectives, train_dataset=rows(16, 0, True, False))


@pytest.mark.parametrize("under_lora", [False, True])
def test_resume_is_a_straight_run_bit_for_bit(tmp_path, under_lora):
    def make():
        torch.manual_seed(0)
        return lora(tiny_bert(), ["query"], "classifier") if under_lora else tiny_bert()

    straight = trainer_for(tmp_path / "straight", make())
    straight.train()
    checkpoint = tmp_path / "straight" / "checkpoint-2"
    assert set(load_file(checkpoint / OBJECTIVES_NAME)) == {"delta.fingerprint", "delta.attention_0"}
    if not under_lora:
        assert set(load_file(checkpoint / "model.safetensors")) == set(tiny_bert().state_dict())
    resumed = trainer_for(tmp_path / "resumed", make())
    resumed.train(resume_from_checkpoint=str(checkpoint))
    expected, found = straight.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    objective = straight.objectives["delta"]
    assert any(
        not torch.equal(p, q)
        for (_, p), (_, q) in zip(
            objective._source.model.named_parameters(), _without_objectives(straight.model), strict=True
        )
    ), "the source moved with the model"


def _without_objectives(model):
    return [(name, p) for name, p in model.named_parameters() if "transfer_objectives" not in name]


def test_a_loaded_attention_needs_no_fit_and_another_start_is_refused():
    torch.manual_seed(0)
    first, second, third = tiny_bert(), tiny_bert(), tiny_bert()
    second.load_state_dict(first.state_dict())
    torch.nn.init.normal_(second.classifier.weight)  # a new head is no other start
    saved = attached(first)[0]
    same, _ = attached(second, fit=False)
    same.load_state_dict(saved.state_dict())
    assert all(torch.equal(same.state_dict()[key], value) for key, value in saved.state_dict().items())
    second(**batch_for(second))
    other, _ = attached(third, fit=False)
    with pytest.raises(ValueError, match="DELTA from other starting weights.*same pretrained checkpoint"):
        other.load_state_dict(saved.state_dict())


def test_the_source_is_no_part_of_the_model():
    model = tiny_bert()
    objective, attachment = attached(model)
    assert set(objective.state_dict()) == {"fingerprint", "attention_0", "attention_1", "attention_2"}
    assert not list(objective.parameters()) and len(list(objective.modules())) == 1
    attachment.detach()
    assert set(model.state_dict()) == set(tiny_bert().state_dict())


def test_built_again_for_another_model_it_forgets_the_first():
    objective, attachment = attached(tiny_bert())
    attachment.detach()
    other = tiny_resnet()
    objective.build(ModelSpec(feature_dim=16, num_labels=3, model=other, anatomy=anatomy(other)))
    assert set(objective.state_dict()) == {"fingerprint", "attention_0", "attention_1"}
    assert not objective.attention_0.numel() and objective.hidden_states[0].startswith("resnet")


# what is refused


def test_forward_before_fit_is_refused():
    model = tiny_bert()
    attached(model, fit=False)
    with pytest.raises(RuntimeError, match="DELTA has not seen the training data.*not known.*`objective.fit"):
        model(**batch_for(model))


def test_equal_weights_need_no_data():
    assert DELTA().learns_from_data and not DELTA(attention=False).learns_from_data
    objective = DELTA(attention=False)
    objective.fit(tiny_bert(), [])
    assert not list(objective.buffers())


def test_a_frozen_backbone_is_refused():
    model = tiny_bert()
    model.bert.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter before the head.*FreezeBackbone"):
        attach(model, [DELTA()])


def test_options_out_of_range_are_refused():
    for blocks in ("first", []):
        with pytest.raises(ValueError, match="names no blocks.*nothing to hold.*stages"):
            DELTA(blocks=blocks)
    with pytest.raises(ValueError, match=r"`blocks=\[7\]` names block 7.*3 blocks.*from 0 to 2"):
        attach(tiny_bert(), [DELTA(blocks=[7])])
    with pytest.raises(ValueError, match="`attention_rows=0`.*there would be none.*attention=False"):
        DELTA(attention_rows=0)
    with pytest.raises(ValueError, match="`head_decay=-1.0` is negative.*zero or a positive"):
        DELTA(head_decay=-1.0)


def test_describes_itself():
    objective = DELTA(blocks=[1, 2], head_decay=0.01, weight=0.3)
    assert DELTA(**objective.config()).config() == objective.config()
    assert "https://huggingface.co/papers/1901.09229" in objective.paper
