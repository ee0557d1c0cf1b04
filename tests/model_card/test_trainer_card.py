"""`TransferTrainer.create_model_card`: the arguments of the parent, and what they change."""

from __future__ import annotations

import yaml

from hf_transfer.model_card import DataFacts, RunFacts
from tests.model_card.runs import trained


def header(folder) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])


def test_arguments_win_over_facts(tmp_path):
    made = trained(tmp_path)
    made.facts = RunFacts(license="mit", tags=["first"])
    made.create_model_card(
        language="en",
        license="apache-2.0",
        tags=["second"],
        model_name="named",
        finetuned_from="user/base",
        tasks="text-classification",
        dataset_tags="user/rows",
        dataset="Rows",
        dataset_args="plain",
    )
    found = header(tmp_path)
    assert (found["license"], found["language"], found["base_model"]) == ("apache-2.0", ["en"], "user/base")
    assert found["tags"][-2:] == ["first", "second"] and found["datasets"] == ["user/rows"]
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "# named" in text and "configuration `plain`" in text
    assert made.facts == RunFacts(license="mit", tags=["first"])


def test_data_of_the_facts_win_over_the_name_of_a_builder(tmp_path):
    made = trained(tmp_path)
    made.facts.data = [DataFacts("mine", splits={"train": 8})]
    made.create_model_card(dataset="other")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "`mine`" in text and "other" not in text.split("## Limits")[0]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    made = trained(tmp_path)
    monkeypatch.setattr(made, "is_world_process_zero", lambda: False)
    made.create_model_card()
    assert not (tmp_path / "README.md").exists()
