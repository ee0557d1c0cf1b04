"""One row per example of what a teacher returned: of tokens that are its own, under a mask that is its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hf_transfer import TransferBatch, attach
from hf_transfer.functional.relations import angle_differences, distance_differences
from hf_transfer.objectives.distillation import contrastive_representation
from hf_transfer.objectives.distillation.contrastive_representation import ContrastiveRepresentation
from hf_transfer.objectives.distillation.relational_distillation import RelationalDistillation
from hf_transfer.objectives.distillation.similarity_preserving import SimilarityPreserving
from hf_transfer.objectives.distillation.taught_rows import teacher_mask, teacher_rows
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.test_similarity_preserving import QUIET, naive


KEPT = [[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]]
WIDE = {"vocab_size": 80, "hidden_size": 24, **QUIET}


def averaged(states: torch.Tensor, mask: Any) -> torch.Tensor:
    """Sums in a loop, in float64."""
    rows = []
    for tokens, kept in zip(states, mask, strict=True):
        chosen = [token.double() for token, one in zip(tokens, kept, strict=True) if one]
        rows.append(sum(chosen, torch.zeros(states.shape[-1]).double()) / max(len(chosen), 1))
    return torch.stack(rows)


def test_the_mask_of_its_own_goes_before_that_of_the_student():
    features = torch.randn(4, 4, 3)
    student = torch.tensor([[1, 1, 1, 0]] * 4)
    batch = TransferBatch(features=torch.zeros(4, 2), attention_mask=student)
    assert teacher_mask(batch) is None
    torch.testing.assert_close(teacher_rows(features, batch).double(), averaged(features, student))
    own = torch.tensor(KEPT)
    batch = TransferBatch(features=torch.zeros(4, 2), attention_mask=student, columns={"teacher_attention_mask": own})
    assert teacher_mask(batch) is own
    torch.testing.assert_close(teacher_rows(features, batch).double(), averaged(features, KEPT))


def test_a_row_a_teacher_has_already_is_left_alone():
    features = torch.randn(4, 3)
    columns = {"teacher_attention_mask": torch.tensor(KEPT)}
    assert torch.equal(teacher_rows(features, TransferBatch(features=torch.zeros(4, 2), columns=columns)), features)


def test_a_row_of_which_no_token_counts_is_zero():
    columns = {"teacher_attention_mask": torch.tensor([[0, 0], [1, 0]])}
    batch = TransferBatch(features=torch.zeros(2, 2), columns=columns)
    features = torch.tensor([[[1.0], [float("inf")]], [[3.0], [5.0]]])
    assert teacher_rows(features, batch).tolist() == [[0.0], [3.0]]


# --- objectives under a teacher that reads other tokens, as many as the student has


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """The student reads 4 or 6 of 6 tokens of a row, the teacher 1 to 6 of 6 others."""
    kept = F.pad(torch.tensor(KEPT), (2, 0), value=0)
    kept[0, 0] = kept[1, :2] = 1
    own = {"teacher_input_ids": torch.randint(1, 80, (4, 6)), "teacher_attention_mask": kept}
    return {**batch_for(tiny_bert()), **own, "index": torch.arange(4)}


def attached(objective):
    torch.manual_seed(5)
    student: Any = tiny_bert(**QUIET).eval()
    attachment = attach(student, [objective])
    student.training = True
    return student, attachment


def of_the_teacher(teacher, batch):
    with torch.no_grad():
        own = teacher.bert(
            batch["teacher_input_ids"], batch["teacher_attention_mask"], output_hidden_states=True
        ).hidden_states
    right, wrong = (averaged(own[-1], batch[f"{side}attention_mask"]) for side in ("teacher_", ""))
    return right, wrong


def of_the_student(student, batch):
    with torch.no_grad():
        output = student.bert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
    return output.pooler_output, averaged(output.hidden_states[-1], batch["attention_mask"])


def term_of(student, attachment, batch) -> float:
    student(**batch)
    (term,) = (value for name, value in attachment.terms.items() if name != "task")
    return term.item()


def relational(rows, reference):
    return (distance_differences(rows, reference) + 2 * angle_differences(rows, reference)).item()


CASES = {
    "SP, features": (lambda teacher: SimilarityPreserving(teacher), 0, naive),
    "SP, hidden states": (lambda teacher: SimilarityPreserving(teacher, layers="last"), 1, naive),
    "RKD": (lambda teacher: RelationalDistillation(teacher), 0, relational),
}


@pytest.mark.parametrize("case", CASES)
def test_objectives_average_over_the_tokens_that_the_teacher_read(case, batch):
    make, which, formula = CASES[case]
    teacher: Any = tiny_token_bert(**WIDE).eval()  # of which features are per token
    student, attachment = attached(make(teacher))
    right, wrong = of_the_teacher(teacher, batch)
    rows = of_the_student(student, batch)[which]
    term = term_of(student, attachment, batch)
    assert term == pytest.approx(formula(rows, right), rel=1e-4)
    assert abs(formula(rows, wrong) / term - 1) > 1e-2, "the student's mask would do as well"


def test_crd_contrasts_the_tokens_that_the_teacher_read(batch, monkeypatch):
    teacher: Any = tiny_token_bert(**WIDE).eval()
    objective = ContrastiveRepresentation(teacher, embed_dim=4, bank_size=8)
    student, _ = attached(objective)
    seen = []
    original = contrastive_representation.contrastive_distillation
    monkeypatch.setattr(
        contrastive_representation,
        "contrastive_distillation",
        lambda *arguments: seen.append(arguments) or original(*arguments),
    )
    student(**batch)
    right, wrong = (
        F.normalize(objective.teacher_projection(rows.float()), dim=-1) for rows in of_the_teacher(teacher, batch)
    )
    ((_, taught, *_),) = seen
    torch.testing.assert_close(taught, right)
    assert (wrong - right).abs().max() > 1e-2


@pytest.mark.parametrize(
    "make", [*(case[0] for case in CASES.values()), lambda t: ContrastiveRepresentation(t, bank_size=8)]
)
def test_what_the_own_mask_leaves_out_does_not_count(make, batch):
    terms = []
    for fill in (0, 7):  # another padding token, and more of it
        ids = torch.where(batch["teacher_attention_mask"] == 1, batch["teacher_input_ids"], fill)
        own = {"teacher_input_ids": F.pad(ids, (0, fill), value=fill)}
        own["teacher_attention_mask"] = F.pad(batch["teacher_attention_mask"], (0, fill))
        torch.manual_seed(4)
        student, attachment = attached(make(tiny_token_bert(**WIDE).eval()))
        terms.append(term_of(student, attachment, {**batch, **own}))
    assert terms[0] == pytest.approx(terms[1], rel=1e-4) and terms[0] > 1e-4
    batch["teacher_attention_mask"] = torch.ones(4, 6, dtype=torch.long)
    torch.manual_seed(4)
    student, attachment = attached(make(tiny_token_bert(**WIDE).eval()))
    assert abs(term_of(student, attachment, batch) / terms[0] - 1) > 1e-3
