"""Tables on the Hub: the features of a recipe and the outputs of a teacher, opened by `datasets.load_dataset`."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_dataset

from hf_transfer.hub import repository
from hf_transfer.teacher.cache import cache_teacher
from hf_transfer.teacher.push import push_teacher_outputs
from hf_transfer.teacher.teacher import Teacher
from tests import models
from tests.hub_server import HubServer


# huggingface_hub 2.4 gives LFS files to httpx2 as `data=`; drop when it gives them as `content=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A teacher whose checkpoint lies in a folder, and what it says of six rows."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("teacher")
    model = models.tiny_bert(id2label={0: "bad", 1: "good", 2: "odd"}, label2id={"bad": 0, "good": 1, "odd": 2})
    model.config._name_or_path = str(place)
    teacher = Teacher(model)
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3 + row] for row in range(6)], "labels": [0, 1, 2, 0, 1, 2]})
    return teacher, cache_teacher(teacher, rows, features=True, cache_dir=place / "cache", progress=False), place


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "WAITS", ())
    with HubServer() as hub, hub.connected(tmp_path / "home", hub.token):
        yield hub


def opened(hub, tmp_path, name):
    """What a user gets; by the folder of the repository, for `datasets` has read its environment long ago."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(name, repo_type="dataset", local_dir=tmp_path / "opened")
    return load_dataset(folder, cache_dir=str(tmp_path / "cache"))


def test_what_a_teacher_said_comes_back(hub, cached, tmp_path):
    teacher, rows, place = cached
    options = {"teacher": teacher, "source": "user/reviews", "keep": ["labels"], "private": True}
    first = push_teacher_outputs(rows, "user/said", tmp_path / "out", **options)
    files = hub.files("user/said", kind="dataset")
    assert files.keys() == {".gitattributes", "README.md", "data/train.parquet"}
    assert hub.repository("user/said", "dataset").private
    card = files["README.md"].decode()
    for text in ("`BertForSequenceClassification`", "0 `bad`, 1 `good`, 2 `odd`", "[user/reviews]", "| train | 6 |"):
        assert text in card
    assert "| `teacher_logits` | `float32[]` |" in card and str(place) not in card and hub.token not in card
    table = opened(hub, tmp_path, "user/said")["train"]
    assert set(table.column_names) == {"teacher_logits", "teacher_features", "labels", "id"}  # not the rows
    assert table["id"][:] == list(range(6)) and table["labels"][:] == rows["labels"][:]
    assert torch.equal(torch.tensor(table["teacher_logits"][:]), torch.tensor(rows["teacher_logits"][:]))
    raw = rows.select_columns(["input_ids"])
    joined = concatenate_datasets([raw.select(table["id"]), table.remove_columns("id")], axis=1)
    assert joined.column_names[0] == "input_ids" and len(joined) == 6
    # the same again is no commit
    assert push_teacher_outputs(rows, "user/said", tmp_path / "out", **options).oid == first.oid


def test_splits_keep_their_ids_and_old_ones_go(hub, cached, tmp_path):
    _, rows, _ = cached
    numbered = rows.add_column("id", [10, 11, 12, 13, 14, 15]).shuffle(seed=0)
    push_teacher_outputs({"train": numbered, "test": numbered.select([0])}, "user/said", tmp_path / "a")
    assert "Not told by whoever pushed this." in hub.files("user/said", kind="dataset")["README.md"].decode()
    push_teacher_outputs(numbered, "user/said", tmp_path / "b")
    assert "data/test.parquet" not in hub.files("user/said", kind="dataset")
    table = opened(hub, tmp_path, "user/said")["train"]
    by_id = dict(zip(table["id"], table["teacher_logits"], strict=True))
    assert [by_id[10 + row] for row in range(6)] == rows["teacher_logits"][:]


def test_without_such_columns(cached, tmp_path):
    _, rows, _ = cached
    with pytest.raises(ValueError, match="The split train has no columns `teacher_\\*`: .* Pass what `cache_teacher`"):
        push_teacher_outputs(rows.select_columns(["labels"]), "user/x", tmp_path)
    with pytest.raises(ValueError, match="The split train has no column text: .* in `keep` columns that are there"):
        push_teacher_outputs(rows, "user/x", tmp_path, keep=["text"])
    assert not list(tmp_path.iterdir())


def test_a_push_that_fails_leaves_the_files_and_the_command(hub, cached, tmp_path, capsys):
    from hf_transfer.__main__ import main

    _, rows, _ = cached
    hub.fail("commit", 500)
    with pytest.raises(
        ConnectionError, match=f"everything is in {tmp_path}/out. .* push {tmp_path}/out user/s --dataset"
    ):
        push_teacher_outputs(rows, "user/s", tmp_path / "out")
    main(["push", str(tmp_path / "out"), "user/s", "--dataset"])
    assert hub.files("user/s", kind="dataset").keys() == {".gitattributes", "README.md", "data/train.parquet"}
