"""`write_card`: what is in a card, that its code runs, and what a person wrote stays."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, Wav2Vec2FeatureExtractor

from hf_transfer import L2SP, DomainAdversarial, FreezeBackbone, GradualUnfreezing
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.model_card import Baseline, DataFacts, RunFacts, Score, write_card
from hf_transfer.model_card.writing import is_ours
from tests import models
from tests.data.test_sound import recordings
from tests.invariants.run import rows
from tests.model_card.runs import arguments, image_processor, tokenizer, trained


SECTIONS = ("How to load it", "Results", "How it was transferred", "Data", "Training", "Limits", "Papers")


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, flags=re.MULTILINE)


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def card_of(made, folder: Path) -> str:
    return write_card(made, folder).read_text(encoding="utf-8")


def full() -> RunFacts:
    facts = RunFacts(
        model_name="mine",
        task="text-classification",
        library="transformers",
        model_class="BertForSequenceClassification",
        processor="BertTokenizer",
        label_names=["no", "yes"],
        strategy=["It starts from `x`."],
        formula="loss = task",
        data=[DataFacts("reviews", splits={"train": 8})],
        seeds=[0],
        seconds=3.0,
        device="CPU",
        papers=["Somebody, 2020"],
        notes=["A note."],
        baselines=[Baseline("alone", Score("accuracy", 0.8), -0.1, (-0.2, -0.05))],
        method="kd",
    )
    facts.add_scores({"test_accuracy": 0.7})
    return facts


# --- what is in it


def test_every_section_is_there_where_its_facts_are(tmp_path):
    text = card_of(full(), tmp_path)
    assert tuple(headings(text)) == SECTIONS
    assert "Negative transfer: by test accuracy kd is 0.100 worse than `alone`" in text
    assert "Energy was not measured." in text


def test_of_nothing_nothing_is_said(tmp_path):
    text = card_of(RunFacts(model_name="mine"), tmp_path)
    assert headings(text) == [] and "# mine" in text
    assert "None" not in text and "[]" not in text and "{" not in text


@pytest.mark.parametrize("facts", [RunFacts(), full()])
def test_no_line_is_a_gap(tmp_path, facts):
    text = card_of(facts, tmp_path)
    assert "information needed" not in text.lower()
    assert "\n\n\n" not in text and not re.search(r"^#+ .*\n+(#|<!--)", text.split("\n---\n", 1)[1].split("\n", 3)[3])
    assert "|---" not in re.sub(r"(\|.*\|\n)+", "", text)  # every table has rows


def test_emissions_are_told_where_they_were_measured(tmp_path):
    facts = full()
    facts.emissions_kg = 0.00123
    text = card_of(facts, tmp_path)
    assert "codecarbon estimates 1.23 g CO2 equivalent." in text and "not measured" not in text


def test_card_of_a_run_reads_everything_off_the_trainer(tmp_path):
    made = trained(
        tmp_path,
        objectives=[L2SP(weight=0.01)],
        callbacks=[GradualUnfreezing(stages=2)],
        eval_dataset=rows(6, 1, True, False),
    )
    made.facts.add_scores(made.evaluate())
    text = card_of(made, tmp_path)
    assert "loss = task + 0.01 * l2sp\ntask = cross-entropy" in text
    assert "in 2 stages" in text and re.search(r"^head +51", text, flags=re.MULTILINE)
    assert "1801.06146" in text and "1802.01483" in text
    assert "| rows | 8 | 6 |" in text.replace("`", "")
    assert "`LABEL_0`, `LABEL_1`, `LABEL_2`" in text
    assert str(tmp_path) not in text


def test_stock_trainer_has_a_card_too(tmp_path):
    args = arguments(tmp_path, of=TrainingArguments)
    made = trained(tmp_path, of=Trainer, args=args, callbacks=[FreezeBackbone()])
    text = card_of(made, tmp_path)
    assert "only the head trained" in text and "loss = cross-entropy" in text


def test_folder_alone_names_an_untrained_model(tmp_path):
    text = card_of(RunFacts(model_class="X"), tmp_path / "mine")
    assert "# mine" in text


def test_template_of_ones_own(tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("---\n{{ card_data }}\n---\n{{ label_names|join('+') }} {{ score_table }}")
    text = write_card(full(), tmp_path, template=template).read_text()
    assert "no+yes | data |" in text


def test_template_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no template `absent.jinja`: no card can be written"):
        write_card(full(), tmp_path, template=tmp_path / "absent.jinja")


def test_token_and_home_do_not_get_into_the_card(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    facts = full()
    facts.notes = ["From /home/somebody/data with hf_dummyTokenOfTheTests."]
    text = card_of(facts, tmp_path)
    assert "somebody" not in text and "dummyToken" not in text


# --- its code runs


def run_code(text: str, folder: Path, monkeypatch, capsys) -> list[str]:
    """What each code block of a card prints, run beside the model's folder."""
    monkeypatch.chdir(folder)
    said = []
    for code in code_blocks(text):
        capsys.readouterr()
        exec(compile(code, "card", "exec"), {})
        said.append(capsys.readouterr().out)
    return said


def test_code_of_a_text_model_runs(tmp_path, monkeypatch, capsys):
    made = trained(tmp_path / "mine", processing_class=tokenizer(tmp_path / "words"))
    made.save_model()
    (said,) = run_code(card_of(made, tmp_path / "mine"), tmp_path, monkeypatch, capsys)
    assert "LABEL_" in said and "score" in said


def test_code_of_a_model_of_sound_runs(tmp_path, monkeypatch, capsys):
    extractor = Wav2Vec2FeatureExtractor()
    sounds = [np.random.default_rng(row).uniform(-0.5, 0.5, 400).astype(np.float32) for row in range(4)]
    heard = prepare(recordings(*sounds), extractor)
    args = arguments(tmp_path / "mine", remove_unused_columns=False)
    options = {"data_collator": collator_for(extractor), "processing_class": extractor, "args": args}
    made = trained(tmp_path / "mine", models.tiny_wav2vec2(), train_dataset=heard, **options)
    made.save_model()
    text = card_of(made, tmp_path / "mine")
    assert ModelCard(text).data.to_dict()["pipeline_tag"] == "audio-classification"
    assert 'pipeline("audio-classification", model="mine")' in text and "np.zeros(16_000" in text
    (said,) = run_code(text, tmp_path, monkeypatch, capsys)
    assert "LABEL_" in said and "score" in said


def test_code_of_an_image_adapter_runs_with_us_and_with_peft_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    base = models.tiny_vit()
    base.save_pretrained("base")  # pyright: ignore[reportCallIssue]
    base.config._name_or_path = "base"  # pyright: ignore
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "query", "value"], modules_to_save=["classifier"])
    adapted = get_peft_model(base, config)  # pyright: ignore[reportArgumentType]
    made = trained("mine", adapted, train_dataset=rows(8, 0, True, True), processing_class=image_processor())
    made.save_model()
    (said,) = run_code(card_of(made, tmp_path / "mine"), tmp_path, monkeypatch, capsys)
    assert "LABEL_" in said
    made.facts = RunFacts(base_hub_id="base", base_model="base")  # the folder stands for a repository
    _, alone = code_blocks(card_of(made, tmp_path / "mine"))
    there: dict = {}
    exec(compile(alone, "card", "exec"), there)
    pixels = torch.randn(2, 3, 8, 8)
    expected = made.model.eval()(pixel_values=pixels).logits
    assert torch.allclose(there["model"](pixel_values=pixels).logits, expected, atol=1e-6)


# --- what a person wrote


def test_card_is_replaced_while_it_is_ours(tmp_path):
    write_card(full(), tmp_path)
    facts = full()
    facts.notes = ["Another note."]
    text = card_of(facts, tmp_path)
    assert "Another note." in text and "A note." not in text and is_ours(text)


def test_written_twice_it_is_the_same(tmp_path):
    assert card_of(full(), tmp_path) == card_of(full(), tmp_path)


def test_card_that_a_person_wrote_keeps_its_text_and_gets_the_results(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags:\n- mine\n---\n\n# My words\n")
    path = write_card(full(), tmp_path)
    card = ModelCard.load(path)
    assert "# My words" in card.text and "Limits" not in card.text
    data = card.data.to_dict()
    assert data["license"] == "mit" and data["tags"] == ["mine"] and data["pipeline_tag"] == "text-classification"
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.7


def test_card_of_ours_that_a_person_changed_is_kept(tmp_path):
    path = write_card(full(), tmp_path)
    path.write_text(path.read_text().replace("A note.", "My own words."))
    facts = full()
    facts.add_scores({"test_accuracy": 0.9})
    text = card_of(facts, tmp_path)
    assert "My own words." in text and "value: 0.9" in text and not is_ours(text)


def test_words_below_the_mark_are_kept(tmp_path):
    path = write_card(full(), tmp_path)
    path.write_text(path.read_text() + "\nMy own words.\n")
    assert "My own words." in card_of(full(), tmp_path)


def test_cards_of_machines_are_replaced(tmp_path):
    base = models.tiny_bert()
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["query"]))  # pyright: ignore[reportArgumentType]
    adapted.save_pretrained(tmp_path)
    assert "More Information Needed" in (tmp_path / "README.md").read_text()
    assert "nformation needed" not in card_of(full(), tmp_path).lower()
    adapted.save_pretrained(tmp_path)  # PEFT puts its version below our card, and its tags above
    assert is_ours((tmp_path / "README.md").read_text())
    assert "### Framework versions" not in card_of(full(), tmp_path)


def test_card_of_the_stock_trainer_is_replaced(tmp_path):
    made = trained(tmp_path, of=Trainer, args=arguments(tmp_path, of=TrainingArguments))
    made.create_model_card()
    assert "More information needed" in (tmp_path / "README.md").read_text()
    assert "More information needed" not in card_of(made, tmp_path)


def test_header_that_is_no_yaml_is_left_alone(tmp_path):
    broken = "---\na: [\n---\n\n# My words\n"
    (tmp_path / "README.md").write_text(broken)
    assert card_of(full(), tmp_path) == broken


def test_objectives_with_a_schedule_are_named(tmp_path):
    from hf_transfer import mix_domains
    from hf_transfer.schedules import warmup

    data = mix_domains(rows(8, 0, True, False), rows(8, 1, False, False))
    made = trained(
        tmp_path, train_dataset=data, objectives=[DomainAdversarial(hidden_size=4, weight=warmup(gamma=5.0))]
    )
    assert "loss = task + warmup(gamma=5.0, peak=1.0) * domain_adversarial" in card_of(made, tmp_path)
