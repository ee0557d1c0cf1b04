from __future__ import annotations

import subprocess
import sys

import pytest
from transformers import BertConfig, BertModel, ResNetConfig, T5Config, WhisperConfig

from hf_transfer.__main__ import classifier_on_meta, main, write_schedule
from hf_transfer.callbacks import GradualUnfreezing, UnfreezingSchedule
from tests.models import bert_config, tiny_bert, tiny_resnet


def saved(config, folder, architecture: str | None = None) -> str:
    config.architectures = [architecture] if architecture else None
    config.save_pretrained(folder)
    return str(folder)


def test_the_file_written_is_the_default_schedule(tmp_path, capsys):
    model = saved(bert_config(), tmp_path, "BertForSequenceClassification")
    out = tmp_path / "schedule.yaml"
    main(["schedule", model, "--stages", "3", "--out", str(out)])
    assert capsys.readouterr().out == ""
    expected = GradualUnfreezing(stages=3)
    bert = tiny_bert()
    assert UnfreezingSchedule(out).phases == expected.plan(expected.parts(bert))
    text = out.read_text()
    assert text.startswith("# Unfreezing schedule of BertForSequenceClassification.")
    assert "#   embeddings       1,376" in text


def test_standard_output_and_bottom_up(tmp_path, capsys):
    main(["schedule", saved(bert_config(), tmp_path), "--order", "bottom_up", "--stages", "2"])
    assert "train: [head, neck, block.0-2, embeddings]" in capsys.readouterr().out
    main(["schedule", str(tmp_path), "--order", "bottom_up", "--stages", "4"])
    assert "train: [head, neck, block.0, embeddings]" in capsys.readouterr().out


def test_a_shallow_model_gets_as_many_stages_as_it_has_blocks_for(tmp_path):
    shallow = saved(bert_config(num_hidden_layers=1), tmp_path / "shallow")
    assert write_schedule(shallow).count("train: [") == 2
    assert write_schedule(saved(bert_config(num_hidden_layers=12), tmp_path / "deep")).count("train: [") == 4


def test_no_weights_are_made():
    model = classifier_on_meta(BertConfig(num_hidden_layers=2))
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "architecture", "task", "built"),
    [
        (bert_config(), "BertForTokenClassification", None, "BertForTokenClassification"),
        (bert_config(), "BertForMaskedLM", None, "BertForSequenceClassification"),
        (bert_config(), "BertForTokenClassification", "text", "BertForSequenceClassification"),
        (bert_config(), None, "token", "BertForTokenClassification"),
        (ResNetConfig(depths=[1, 1, 1, 1]), "ResNetModel", None, "ResNetForImageClassification"),
        (WhisperConfig(encoder_layers=1, decoder_layers=1), None, None, "WhisperForAudioClassification"),
        (T5Config(num_layers=1), "SomeoneElsesClassification", None, "T5ForSequenceClassification"),
    ],
)
def test_the_class_is_the_one_stored_or_the_first_that_fits(config, architecture, task, built):
    config.architectures = [architecture] if architecture else None
    assert type(classifier_on_meta(config, task)).__name__ == built


def test_a_task_the_model_has_no_head_for_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="A `bert` model has no image head in transformers .* another --task"):
        classifier_on_meta(bert_config(), "image")
    with pytest.raises(SystemExit):
        main(["schedule", saved(bert_config(), tmp_path), "--task", "image"])
    assert "has no image head" in capsys.readouterr().err


def test_more_stages_than_blocks_are_refused_in_words(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["schedule", saved(bert_config(), tmp_path), "--stages", "9"])
    assert "use stages <= 4" in capsys.readouterr().err


def test_a_folder_without_a_configuration_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["schedule", str(tmp_path)])
    assert str(tmp_path) in capsys.readouterr().err


def test_it_runs_as_a_module(tmp_path):
    model = saved(tiny_resnet().config, tmp_path, "ResNetForImageClassification")
    command = [sys.executable, "-m", "hf_transfer", "schedule", model]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "train: [head, block.2]" in done.stdout
    assert BertModel.__name__ not in done.stdout
