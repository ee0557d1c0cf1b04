"""MiniLM and MiniLMv2 in the forward of models, against what the models themselves return, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from hf_transfer import TransferBatch, attach
from hf_transfer.functional.attention_distillation import attention_divergence, relation_divergence
from hf_transfer.objectives.distillation.attention_distillation import AttentionDistillation
from tests.architectures import architecture
from tests.models import (
    TINY,
    batch_for,
    lora,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_resnet,
    tiny_token_bert,
    tiny_vit,
)


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
QKV = ("query", "key", "value")
TRANSFORMERS = {kind: make for kind, make in TINY.items() if kind != "resnet"}


def eager(model):
    model.set_attn_implementation("eager")
    return model


def attached(student, teacher, **options):
    objective = AttentionDistillation(teacher, **options)
    attachment = attach(student, [objective])
    student.training = True  # objectives run; dropout stays as it is
    return objective, attachment


def inputs_of(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def maps_of(model, batch):
    with torch.no_grad():
        return model(**inputs_of(batch), output_attentions=True).attentions


def projected(model, batch, layer, role, heads):
    """What a projection makes of the hidden states before its layer, cut into heads."""
    with torch.no_grad():
        states = model(**inputs_of(batch), output_hidden_states=True).hidden_states[layer]
        vectors = getattr(model.bert.encoder.layer[layer].attention.self, role)(states)
    return vectors.view(*vectors.shape[:2], heads, -1).transpose(1, 2)


def test_minilm_is_maps_and_value_relations_of_the_last_layers():
    student = eager(tiny_bert(**QUIET)).eval()
    teacher = eager(tiny_bert(hidden_size=32, num_hidden_layers=4, **QUIET)).eval()
    batch = batch_for(student)
    mask = batch["attention_mask"]
    expected = attention_divergence(maps_of(student, batch)[2], maps_of(teacher, batch)[3], mask)
    values = projected(student, batch, 2, "value", 2), projected(teacher, batch, 3, "value", 2)
    expected = expected + relation_divergence(*values, mask)
    objective, attachment = attached(student, teacher)
    student(**batch)
    torch.testing.assert_close(attachment.terms["attention_distillation"], expected, rtol=1e-4, atol=1e-7)
    assert expected > 1e-4 and not list(objective.parameters())


@pytest.mark.parametrize("heads", [4, 8])
def test_minilm_v2_cuts_other_widths_and_heads_into_relation_heads(heads):
    student = tiny_bert(**QUIET).eval()
    teacher = tiny_bert(hidden_size=48, num_attention_heads=3, **QUIET).eval()
    batch = batch_for(student)
    expected = 0.0
    for role in QKV:
        vectors = projected(student, batch, 2, role, heads), projected(teacher, batch, 1, role, heads)
        expected = expected + relation_divergence(*vectors, batch["attention_mask"])
    _, attachment = attached(student, teacher, relations=QKV, relation_heads=heads, layers={-1: 1})
    student(**batch)
    torch.testing.assert_close(attachment.terms["attention_distillation"], expected, rtol=1e-4, atol=1e-7)
    assert expected > 1e-5


def test_several_layers_add_up():
    student, teacher = tiny_bert(**QUIET).eval(), tiny_bert(**QUIET).eval()
    batch, values = batch_for(student), []
    for layers in ({0: 0}, {2: 1}, {0: 0, 2: 1}):
        with attached(student, teacher, relations=("value",), layers=layers)[1] as attachment:
            student(**batch)
            values.append(attachment.terms["attention_distillation"])
    torch.testing.assert_close(values[0] + values[1], values[2])


@pytest.mark.parametrize("kind", TRANSFORMERS)
@pytest.mark.parametrize("relations", [("attention", "value"), QKV])
def test_is_zero_when_the_student_is_the_teacher(kind, relations):
    student = eager(TRANSFORMERS[kind]()).eval()
    _, attachment = attached(student, student, relations=relations)
    student(**batch_for(student))
    assert attachment.terms["attention_distillation"].item() == pytest.approx(0, abs=1e-6)


def test_dropout_on_the_maps_adds_nothing_and_its_gradient_is_finite():
    torch.manual_seed(0)
    student = eager(tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5))
    # the first layer: dropout in a layer before would change what it attends to
    _, attachment = attached(student, student, relations=("attention",), layers={0: 0})
    student.train()
    student(**batch_for(student)).loss.backward()
    assert attachment.terms["attention_distillation"].item() == pytest.approx(0, abs=1e-5)
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize("kind", TRANSFORMERS)
@pytest.mark.parametrize("relations", [("attention", "value"), QKV])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_gradient_reaches_the_student_alone(kind, relations, adapted):
    teacher, student = TRANSFORMERS[kind](), TRANSFORMERS[kind]()
    if "attention" in relations:  # the others work with fused kernels
        teacher, student = eager(teacher), eager(student)
    if adapted:
        targets = r".*(query|q_proj|c_attn)"
        student = lora(student, targets, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))
    objective, attachment = attached(student.train(), teacher, relations=relations)
    student(**batch_for(student, labelled=False)).loss.backward()
    assert attachment.terms["attention_distillation"] > 0
    trained = [p for n, p in student.named_parameters() if p.requires_grad and "classifier" not in n]
    assert any(p.grad is not None and p.grad.any() for p in trained)
    assert all(p.grad is None for p in (*teacher.parameters(), *objective.teacher.model.parameters()))


@pytest.mark.parametrize("relations", [("attention",), ("value",), QKV])
def test_padding_has_no_influence(relations):
    student, teacher = (eager(tiny_token_bert(**QUIET)).eval() for _ in range(2))
    _, attachment = attached(student, teacher, relations=relations)
    batch, values = batch_for(student), []
    for more in (0, 3):
        student(
            input_ids=pad(batch["input_ids"], (0, more), value=7),
            attention_mask=pad(batch["attention_mask"], (0, more)),
            labels=pad(batch["labels"], (0, more), value=-100),
        )
        values.append(attachment.terms["attention_distillation"])
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-7)
    assert values[0] > 1e-5


def test_descent_brings_the_attention_of_the_teacher():
    torch.manual_seed(0)
    student, teacher = eager(tiny_vit()), eager(tiny_vit())
    for layer in (student.vit.layers[-1], teacher.vit.layers[-1]):
        for projection in (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj):
            torch.nn.init.normal_(projection.weight, std=0.5)
    _, attachment = attached(student.train(), teacher)
    batch = batch_for(student, 8, labelled=False)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        student(**batch).loss.backward()
        optimizer.step()
        values.append(attachment.terms["attention_distillation"].item())
    assert values[-1] < 0.3 * values[0]


@pytest.mark.parametrize("relations", [("attention", "value"), QKV])
def test_bfloat16(relations):
    student, teacher = eager(tiny_bert()).train().bfloat16(), eager(tiny_bert())
    _, attachment = attached(student, teacher, relations=relations)
    student(**batch_for(student)).loss.backward()
    term = attachment.terms["attention_distillation"]
    assert term.dtype == torch.float32 and term.isfinite()


def test_a_layer_left_out_of_a_step_is_left_out():
    objective, _ = attached(tiny_bert(), tiny_bert(), relations=QKV)
    features = torch.ones(4, 16, requires_grad=True)
    batch = batch_for(tiny_bert())
    value = objective(
        TransferBatch(features=features, inputs=inputs_of(batch), attention_mask=batch["attention_mask"])
    )
    value.backward()
    assert value.item() == 0 and features.grad is not None


def test_describes_itself():
    objective = AttentionDistillation(tiny_bert(), relations=("key",), relation_heads=4, layers={-1: -2})
    assert AttentionDistillation(**objective.config()).config() == objective.config()
    assert "relation_heads=4" in repr(objective)


# what is refused


@pytest.mark.parametrize("fused", ["student", "teacher"])
def test_maps_asked_from_a_fused_kernel(fused):
    student, teacher = tiny_bert(), tiny_bert()
    eager(teacher if fused == "student" else student)
    message = f'maps asked from a fused kernel: .* of the {fused} runs "sdpa".*attn_implementation="eager".*relations='
    with pytest.raises(ValueError, match=message):
        attach(student, [AttentionDistillation(teacher)])


def test_maps_of_a_model_that_does_not_return_them():
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    config = DebertaV2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    student = DebertaV2ForSequenceClassification(config)
    with pytest.raises(ValueError, match=r"`deberta.*attention.self` of the student does not return.*nothing.*relati"):
        attach(student, [AttentionDistillation(DebertaV2ForSequenceClassification(config))])
    # its values are read all the same
    _, attachment = attached(student, DebertaV2ForSequenceClassification(config), relations=("value",))
    student(**batch_for(student)).loss.backward()
    assert attachment.terms["attention_distillation"] > 0


def test_a_fused_projection_that_mixes_heads():
    from transformers import BloomConfig, BloomForSequenceClassification

    assert architecture("BloomForSequenceClassification")
    config = BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2, num_labels=3, pad_token_id=0)
    student = BloomForSequenceClassification(config)
    with pytest.raises(ValueError, match=r"`.*query_key_value` of the student returns.*cannot be told.*a layer for"):
        attach(student, [AttentionDistillation(BloomForSequenceClassification(config), relations=QKV)])


def test_convolutional_networks_have_no_attention():
    with pytest.raises(ValueError, match="has no attention.*AttentionTransfer"):
        attach(tiny_resnet(), [AttentionDistillation(tiny_resnet())])
    with pytest.raises(ValueError, match="has no attention"):
        attach(tiny_vit(), [AttentionDistillation(tiny_resnet(), relations=QKV)])


@pytest.mark.parametrize(("relations", "what"), [(("attention",), "attention"), (("value",), "value")])
def test_other_numbers_of_heads(relations, what):
    student, teacher = eager(tiny_bert()), eager(tiny_bert(num_attention_heads=4))
    with pytest.raises(
        ValueError, match=f"student has 2 heads and .* of the teacher 4: which {what}.*`relation_heads`"
    ):
        attach(student, [AttentionDistillation(teacher, relations=relations)])


def test_relation_heads_that_divide_no_width():
    with pytest.raises(ValueError, match="`relation_heads=5` does not divide the query .* student, 16 wide.*divisor"):
        attach(tiny_bert(), [AttentionDistillation(tiny_bert(), relations=QKV, relation_heads=5)])


def test_values_shared_by_several_queries():
    teacher = tiny_llama()
    student = type(teacher)(type(teacher.config)(**{**teacher.config.to_dict(), "num_key_value_heads": 1}))
    with pytest.raises(ValueError, match="student has 1 heads and .* teacher 2: which value"):
        attach(student, [AttentionDistillation(teacher, relations=("value",))])
    _, attachment = attached(student, teacher, relations=QKV, relation_heads=4)
    student(**batch_for(student)).loss.backward()
    assert attachment.terms["attention_distillation"] > 0


def test_other_positions():
    student = tiny_vit()
    teacher = type(student)(type(student.config)(**{**student.config.to_dict(), "patch_size": 2}))
    attached(student.train(), teacher, relations=QKV)
    with pytest.raises(
        ValueError, match=r"student sees \(4, 5, 1\) and .* \(4, 17, 1\).*another tokenizer.*Similarity"
    ):
        student(**batch_for(student))


def test_a_mask_for_other_positions():
    student = tiny_bert().train()
    objective, _ = attached(student, tiny_bert(), relations=("value",))
    batch = batch_for(student)
    name = objective.hidden_states[0]
    given = TransferBatch(
        features=torch.ones(4, 16),
        inputs=inputs_of(batch),
        attention_mask=torch.ones(4, 9),
        hidden_states={name: torch.ones(4, 6, 16)},
    )
    with pytest.raises(ValueError, match=r"sees 6 positions and the attention mask is \(4, 9\).*padding.*layers="):
        objective(given)


@pytest.mark.parametrize("relations", [(), ("values",), "value", ("value", "value")])
def test_relations_that_are_no_choice(relations):
    with pytest.raises(ValueError, match="`relations=.*no choice of different relations.*not said.*Give some of"):
        AttentionDistillation(tiny_bert(), relations=relations)


@pytest.mark.parametrize(("relations", "heads"), [(("value",), 0), (("attention",), 4)])
def test_relation_heads_that_make_no_sense(relations, heads):
    with pytest.raises(
        ValueError, match=f"`relation_heads={heads}` with relations=.*cut into so many.*positive number"
    ):
        AttentionDistillation(tiny_bert(), relations=relations, relation_heads=heads)


def test_what_is_no_layer_map():
    with pytest.raises(ValueError, match="no layer map.*Give one of"):
        AttentionDistillation(tiny_bert(), layers="middle")


def test_a_teacher_of_another_architecture():
    student, teacher = tiny_bert(), tiny_gpt2()
    _, attachment = attached(student.train(), teacher, relations=QKV, relation_heads=4)
    student(**batch_for(student)).loss.backward()
    assert attachment.terms["attention_distillation"] > 0
