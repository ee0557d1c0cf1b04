"""What of a folder is pushed, and what of a repository is old."""

from __future__ import annotations

import pytest

from hf_transfer.hub.files import is_stale, pushed_files


@pytest.fixture
def folder(tmp_path):
    """A function that fills a folder."""

    def fill(*names: str):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        return tmp_path

    return fill


MODEL = ("config.json", "model.safetensors", "tokenizer.json", "README.md", "all_results.json", "lr_find.png")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "task_config.json")


def test_a_model_with_what_belongs_to_it(folder):
    assert pushed_files(folder(*MODEL, "modeling_own.py", "additional_chat_templates/a.jinja")).keys() == {
        *MODEL,
        "modeling_own.py",
        "additional_chat_templates/a.jinja",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("training_args.bin", "optimizer.pt", "rng_state.pth", "a.pkl", "b.ckpt", "pytorch_model.bin"),
        *(".hidden", ".model.safetensors.12.tmp", "_push_a/config.json", "train.log", "trainer_state.json"),
        *(
            "checkpoint-2/model.safetensors",
            "kd/seed_0/model.safetensors",
            "runs/events.out",
            "objectives.safetensors",
        ),
    ],
)
def test_what_stays(folder, name):
    assert pushed_files(folder(*MODEL, name)).keys() == set(MODEL)


def test_objectives_on_request(folder):
    assert "objectives.safetensors" in pushed_files(folder(*MODEL, "objectives.safetensors"), objectives=True)


def test_adapters_of_other_names_go_with_the_first(folder):
    other = [f"other/{name}" for name in ADAPTER]
    assert pushed_files(folder(*ADAPTER, *other)).keys() == {*ADAPTER, *other}


def test_a_folder_of_two_runs_gives_the_one_asked_for(folder):
    both = folder(*MODEL, *ADAPTER, "running_statistics.safetensors")
    assert not pushed_files(both, adapter=True).keys() & {"config.json", "model.safetensors"}
    assert pushed_files(both, adapter=False).keys() == set(MODEL)
    with pytest.raises(ValueError, match="holds a whole model and an adapter: .* Save the one that is meant"):
        pushed_files(both)


def test_nothing_to_push(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*: nothing can be pushed.*Name the"):
        pushed_files(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="holds nothing to push: .* Name the"):
        pushed_files(tmp_path)


@pytest.mark.parametrize("old", ["config.json", "model.safetensors", "model-00002-of-00003.safetensors"])
def test_a_model_gives_way_to_an_adapter(old):
    assert is_stale(old, set(ADAPTER))


def test_what_gives_way_to_a_model_and_what_not():
    for old in (*ADAPTER, "model.safetensors.index.json", "training_args.bin", "objectives.safetensors"):
        assert is_stale(old, {"config.json", "model.safetensors"} - {old})
    for other in ("README.md", ".gitattributes", "notes.md", "other/config.json", "vocab.txt", "samples.png"):
        assert not is_stale(other, {"config.json", "model.safetensors"})
    assert is_stale("vocab.txt", {"config.json", "model.safetensors", "preprocessor_config.json"})
    assert not is_stale("config.json", {"README.md"})  # a push that brings no model takes none away
