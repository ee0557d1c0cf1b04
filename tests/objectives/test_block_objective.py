"""Pairs of blocks: what is read, blocks that are dropped or never run, other layouts, other tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import SqueezeBertConfig, SqueezeBertForSequenceClassification

from hf_transfer import AttentionTransfer, HintDistillation, PatientDistillation, TransferBatch, attach
from hf_transfer.objectives.distillation.block_objective import mask_over
from hf_transfer.teacher.cached_teacher import CachedTeacher
from tests.models import TINY, batch_for, tiny_bert, tiny_wav2vec2


def test_both_models_return_the_blocks_of_the_pairs():
    teacher, student = tiny_bert(num_hidden_layers=4), tiny_bert(num_hidden_layers=2).train()
    objective = HintDistillation(teacher)
    attach(student, [objective])
    assert objective.hidden_states == ("bert.encoder.layer.0", "bert.encoder.layer.1")
    assert list(objective.pairs.values()) == ["bert.encoder.layer.1", "bert.encoder.layer.3"]
    assert "teacher_hidden.bert.encoder.layer.3" in objective.optional_columns


@pytest.mark.parametrize("make", [HintDistillation, PatientDistillation, AttentionTransfer])
def test_a_dropped_block_counts_as_zero_and_its_projection_has_a_gradient(make):
    torch.manual_seed(0)
    teacher = TINY["wav2vec2"]()
    student = tiny_wav2vec2(layerdrop=1.0).train()
    objective = make(teacher, layers="uniform")
    attachment = attach(student, [objective])
    if hasattr(objective, "projections"):
        objective.projections = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
    student(**batch_for(student)).loss.backward()
    assert attachment.terms[objective.name].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    student.config.layerdrop = 0.5
    terms = []
    for _ in range(12):
        student(**batch_for(student)).loss.backward()
        terms.append(attachment.terms[objective.name].item())
    assert min(terms) == 0 < max(terms)  # none of the blocks ran, some did


def test_a_block_that_never_shows_its_output_is_an_error():
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"q_groups": 2, "k_groups": 2, "v_groups": 2, "intermediate_groups": 2, "output_groups": 2}
    student = SqueezeBertForSequenceClassification(
        SqueezeBertConfig(**sizes, num_hidden_layers=2, embedding_size=16, post_attention_groups=1, num_labels=3)
    ).train()
    attach(student, [HintDistillation(tiny_bert(), layers={0: 0})])
    with pytest.raises(ValueError, match="returned nothing in this forward.*nothing to learn.*Name other modules"):
        student(**batch_for(student))


def test_a_module_that_is_not_laid_out_by_row_is_refused():
    student = tiny_bert().train()
    objective = HintDistillation(tiny_bert(), layers={0: 0})
    attachment = attach(student, [objective])
    batch = TransferBatch(
        features=torch.zeros(4, 16),
        inputs={name: value for name, value in batch_for(student).items() if name in ("input_ids", "attention_mask")},
        hidden_states={"bert.encoder.layer.0": torch.zeros(6, 4, 16)},
        model=student,
    )
    with pytest.raises(ValueError, match=r"student returned a tensor of shape \(6, 4, 16\) for 4 rows.*layers="):
        objective(batch)
    attachment.detach()


@pytest.mark.parametrize("make", [HintDistillation, AttentionTransfer])
def test_tokens_of_another_tokenizer_are_refused(make):
    student = tiny_bert().train()
    attach(student, [make(tiny_bert(vocab_size=80))])
    batch = batch_for(student)
    own = {"teacher_input_ids": batch["input_ids"] + 20, "teacher_attention_mask": batch["attention_mask"]}
    with pytest.raises(ValueError, match="reads `teacher_input_ids`, other tokens.*unknown.*PatientDistillation"):
        student(**batch, **own)


def test_one_vector_a_row_may_come_of_other_tokens():
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    student, teacher = tiny_bert(**quiet).train(), tiny_bert(vocab_size=80, hidden_size=24)
    attachment = attach(student, [PatientDistillation(teacher, position="last")])
    ids, mask = torch.full((4, 9), 60), torch.ones(4, 9, dtype=torch.long)
    mask[:, 7:] = 0
    terms = []
    for padding in (0, 3, 3):
        ids[:, 7:] = padding
        student(**batch_for(student), teacher_input_ids=ids, teacher_attention_mask=mask)
        terms.append(attachment.terms["patient_distillation"])
        if len(terms) == 2:
            mask[:, 7:] = 1
    assert terms[0] > 0
    torch.testing.assert_close(terms[0], terms[1])  # what the teacher's own mask leaves out does not count
    assert abs(terms[1] - terms[2]) > 1e-4


@pytest.mark.parametrize("make", [HintDistillation, PatientDistillation, AttentionTransfer])
def test_a_teacher_of_which_only_outputs_are_left(make):
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    teacher, student = tiny_bert(hidden_size=24).eval(), tiny_bert(**quiet).train()
    batch = batch_for(student)
    with torch.no_grad():
        output = teacher.bert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
    column = {"teacher_hidden.bert.encoder.layer.0": output.hidden_states[1]}
    pair = {"bert.encoder.layer.0": "bert.encoder.layer.0"}
    widths = {} if make is AttentionTransfer else {"widths": {"bert.encoder.layer.0": (16, 24)}}
    terms = []
    for source in (teacher, CachedTeacher()):
        torch.manual_seed(0)
        objective = make(source, layers=pair, **widths)
        with attach(copy.deepcopy(student), [objective]) as attachment:
            attachment.model(**batch, **column)
            terms.append(attachment.terms[objective.name])
    assert terms[0] > 0
    torch.testing.assert_close(terms[0], terms[1])


def test_rules_need_a_teacher_with_a_model():
    with pytest.raises(ValueError, match='layers="uniform" for a teacher of which only stored outputs are left'):
        attach(tiny_bert(), [HintDistillation(CachedTeacher())])


def test_the_mask_of_sound_is_over_frames():
    model = tiny_wav2vec2()
    mask = torch.ones(2, 400)
    mask[1, 200:] = 0
    batch = TransferBatch(features=torch.zeros(2, 16), attention_mask=mask, model=model)
    frames = mask_over(torch.zeros(2, 39, 16), batch)
    assert frames is not None and frames.shape == (2, 39) and frames.sum(1).tolist() == [39, 19]
    assert mask_over(torch.zeros(2, 16, 4, 4), batch) is mask  # fits no map, and is not read
    bare = TransferBatch(features=torch.zeros(2, 16), attention_mask=mask, model=tiny_bert())
    assert mask_over(torch.zeros(2, 39, 16), bare) is None
