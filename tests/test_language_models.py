"""Language models under `attach`: told by their class, labels moved to their logits, distilled by the real trainer."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_transfer import (
    DIST,
    L2SP,
    DecoupledDistillation,
    FocalLoss,
    LogitDistillation,
    LogitStandardization,
    Objective,
    TransferArguments,
    TransferTrainer,
    attach,
)
from hf_transfer.language_models import is_language_model, next_token_labels, predicts_next_token
from tests.models import (
    TINY,
    VOCABULARY,
    bert_config,
    lora,
    tiny_bert,
    tiny_causal_llama,
    tiny_llama,
    tiny_token_bert,
)


def small_bart():
    size = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 32}
    layers = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    return BartForSequenceClassification(BartConfig(vocab_size=VOCABULARY, **size, **layers))


def small_t5():
    return T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


KINDS = {  # whether a language model, and whether it predicts the next token
    "causal": (tiny_causal_llama, True, True),
    "gpt2": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32)),
        True,
        True,
    ),
    "decoder of BERT": (lambda: BertLMHeadModel(bert_config(is_decoder=True)), True, True),
    "under PEFT": (lambda: lora(tiny_causal_llama(), ["q_proj"]), True, True),
    "masked": (lambda: BertForMaskedLM(bert_config()), True, False),
    "encoder and decoder": (small_t5, True, False),
    "classifier of an encoder and decoder": (small_bart, False, False),
    "decoder that classifies": (tiny_llama, False, False),
    "token classifier of as many classes": (lambda: tiny_token_bert(num_labels=VOCABULARY), False, False),
    **{kind: (make, False, False) for kind, make in TINY.items()},
    "no model of transformers": (lambda: torch.nn.Linear(2, VOCABULARY), False, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_told_by_the_class(kind):
    make, language, next_token = KINDS[kind]
    model = make()
    assert (is_language_model(model), predicts_next_token(model)) == (language, next_token)


def test_the_label_of_a_position_is_the_next_token():
    labels = torch.tensor([[4, 5, 6], [7, -100, 8]])
    assert next_token_labels(labels).tolist() == [[5, 6, -100], [-100, 8, -100]]
    assert labels.tolist() == [[4, 5, 6], [7, -100, 8]], "changed in place"


class Watcher(Objective):
    """Keeps what it sees."""

    def build(self, spec):
        self.spec = spec
        return self

    def forward(self, batch):
        self.seen = batch
        return 0 * batch.features.sum()


def text(rows=3, length=6):
    ids = torch.randint(1, VOCABULARY, (rows, length))
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = 0, 0  # padded on the right
    ids[2, :2], mask[2, :2] = 0, 0  # and on the left
    labels = torch.where(mask == 1, ids, -100)
    labels[0, :3] = -100  # a prompt
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("tied", [False, True])
def test_what_objectives_see_of_a_causal_model(tied):
    model = tiny_causal_llama(tie_word_embeddings=tied).train()
    watcher, batch = Watcher(), text()
    with attach(model, [watcher]):
        loss = model(**batch).loss
    assert (watcher.spec.num_labels, watcher.spec.feature_dim) == (VOCABULARY, 16)
    seen = watcher.seen
    assert seen.features.shape == (3, 6, 16) and seen.logits.shape == (3, 6, VOCABULARY)
    rows = seen.rows
    own = torch.nn.functional.cross_entropy(rows.logits[rows.labelled], rows.labels[rows.labelled])
    assert own.item() == pytest.approx(loss.item(), rel=1e-5), "labels do not belong to the logits beside them"
    head = model.lm_head(seen.features)
    torch.testing.assert_close(head, seen.logits)


def test_changes_of_the_task_loss_are_shifted_too():
    model, batch = tiny_causal_llama().train(), text()
    bare = model(**batch).loss.item()
    with attach(model, [FocalLoss(gamma=0.0)]):
        assert model(**batch).loss.item() == pytest.approx(bare, rel=1e-5)
    with attach(model, []):
        weighed = model(**batch, sample_weight=torch.ones(3)).loss.item()
    assert weighed == pytest.approx(bare, rel=1e-5)


def test_a_batch_with_a_label_nowhere_but_at_the_first_token_is_an_exact_zero():
    model, batch = tiny_causal_llama().train(), text()
    batch["labels"][:, 1:] = -100
    with attach(model, []):
        loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def softmax(values, temperature):
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def teacher_model(**options):
    torch.manual_seed(3)
    teacher = tiny_causal_llama(hidden_size=32, intermediate_size=64, **options).eval()
    torch.nn.init.normal_(teacher.lm_head.weight)
    return teacher


@pytest.mark.parametrize("rows", ["all", "labelled", "unlabelled"])
def test_distillation_of_a_causal_model_against_a_loop(rows):
    teacher, student, batch = teacher_model(), tiny_causal_llama().train(), text()
    batch["labels"][1] = -100
    with attach(student, [LogitDistillation(teacher, rows=rows)]) as attachment:
        z = student(**batch).logits.detach().double()
        term = attachment.terms["logit_distillation"].item()
    with torch.no_grad():
        t = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
    total = count = 0
    for row in range(3):
        for place in range(5):  # what the last position predicts is not in the text
            there = batch["attention_mask"][row, place] == 1 and batch["attention_mask"][row, place + 1] == 1
            labelled = batch["labels"][row, place + 1] != -100
            none = not (batch["labels"][row] != -100).any()
            if {"all": there, "labelled": labelled, "unlabelled": there and none}[rows]:
                q, p = (softmax(x[row, place].tolist(), 2.0) for x in (t, z))
                total += sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
                count += 1
    # 5 + 3 + 3 pairs of tokens; 3 completions after the prompt, and 4 labels behind another token
    assert count == {"all": 11, "labelled": 7, "unlabelled": 3}[rows]
    assert term == pytest.approx(4 * total / count, rel=1e-4) and term > 1e-3


@pytest.mark.parametrize("cls", [LogitStandardization, DecoupledDistillation, DIST])
def test_the_other_objectives_on_a_causal_model(cls):
    teacher, student, batch = teacher_model(), tiny_causal_llama().train(), text()
    with attach(student, [cls(teacher)]) as attachment:
        student(**batch).loss.backward()
        (term,) = (value for name, value in attachment.terms.items() if name != "task")
    assert term.isfinite() and term > 1e-3
    assert all(p.grad.isfinite().all() for p in student.parameters())
    with attach(same := teacher_model().train(), [cls(teacher)]) as attachment:
        same(**batch)
        (term,) = (value for name, value in attachment.terms.items() if name != "task")
    assert term.item() == pytest.approx(0, abs=1e-5)


def test_the_target_of_a_position_is_the_next_token():
    """DKD with the labels of the same position would teach the student to repeat."""
    teacher, student, batch = teacher_model(), tiny_causal_llama().train(), text()
    objective = DecoupledDistillation(teacher)
    seen = []
    original = objective.predictions
    objective.predictions = lambda batch: seen.append(original(batch)) or seen[-1]
    with attach(student, [objective]):
        student(**batch)
    (found,) = seen
    for row in range(3):
        for place in range(5):
            if found.counted[row, place]:
                assert found.labels[row, place] == batch["input_ids"][row, place + 1]
    assert not found.counted[:, -1].any() and found.counted.sum() == 2 + 3 + 3 + 2


@pytest.mark.parametrize("adapted", [False, True])
def test_a_causal_model_is_distilled_by_the_trainer(adapted, tmp_path):
    teacher = teacher_model()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = tiny_causal_llama(tie_word_embeddings=True)
    student = lora(student, ["q_proj", "v_proj"]) if adapted else student
    args = TransferArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    ids = torch.randint(1, VOCABULARY, (8, 6)).tolist()
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 6] * 8, "labels": ids})
    objectives = [LogitDistillation(teacher, weight=0.5), L2SP(weight=0.1)]
    trainer = TransferTrainer(student, args, objectives=objectives, train_dataset=data)
    start = {name: value.clone() for name, value in student.state_dict().items()}
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss_task" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert entry["loss_logit_distillation"] > 1e-3 and math.isfinite(entry["loss"])
    assert any(not torch.equal(value, start[name]) for name, value in student.state_dict().items() if name in start)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    saved = [path.name for path in tmp_path.rglob("*.safetensors")]
    assert ("adapter_model.safetensors" if adapted else "model.safetensors") in saved
    assert not [name for name, _ in student.named_modules() if "teacher" in name]


def test_a_model_with_a_named_head_works_too():
    teacher, student = teacher_model(), tiny_causal_llama().train()
    with attach(student, [LogitDistillation(teacher)], head="lm_head") as attachment:
        student(**text())
        assert attachment.terms["logit_distillation"] > 1e-3


def test_a_masked_model_is_not_shifted():
    student, teacher = BertForMaskedLM(bert_config()).train(), BertForMaskedLM(bert_config()).eval()
    torch.nn.init.normal_(teacher.cls.predictions.transform.dense.weight)
    ids = torch.randint(1, VOCABULARY, (2, 5))
    labels = torch.full_like(ids, -100)
    labels[0, 2], labels[1, 4] = 7, 9
    student.eval().training = True
    with attach(student, [LogitDistillation(teacher, rows="labelled", temperature=1.0)]) as attachment:
        z = student(input_ids=ids, labels=labels).logits.detach().double()
        term = attachment.terms["logit_distillation"].item()
    with torch.no_grad():
        t = teacher(input_ids=ids).logits.double()
    expected = 0.0
    for row, place in ((0, 2), (1, 4)):
        q, p = (softmax(x[row, place].tolist(), 1.0) for x in (t, z))
        expected += sum(a * math.log(a / b) for a, b in zip(q, p, strict=True)) / 2
    assert term == pytest.approx(expected, rel=1e-3) and term > 1e-4


def test_classifiers_keep_their_number_of_labels():
    watcher = Watcher()
    with attach(tiny_bert(), [watcher]):
        assert watcher.spec.num_labels == 3
