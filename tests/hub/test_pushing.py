"""Pushes of folders to the local Hub: one commit or none, repeated, refused, cut; repositories and the command."""

from __future__ import annotations

import json
import os
import socket

import pytest
from transformers import TrainingArguments
from transformers.utils import logging

from hf_transfer.__main__ import main
from hf_transfer.hub import check_push, open_repository, push_files, push_folder, repository
from hf_transfer.hub.staging import clear_stages, stage, without_machine_paths
from tests.hub_server import HubServer


# huggingface_hub 2.4 gives LFS files to httpx2 as `data=`; drop when it gives them as `content=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

WEIGHTS = bytes(range(256)) * 4


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "WAITS", (0.0, 0.0))
    with HubServer() as hub, hub.connected(tmp_path / "home", hub.token):
        yield hub


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "out"
    (out / "checkpoint-2").mkdir(parents=True)
    for name in ("model.safetensors", "checkpoint-2/model.safetensors", "training_args.bin"):
        (out / name).write_bytes(WEIGHTS)
    (out / "config.json").write_text("{}")
    (out / "README.md").write_text("---\ntags: [a]\n---\n# x\n")
    return out


PUSHED = {"README.md", "config.json", "model.safetensors"}


def titles(hub, name="user/x", kind="model") -> list[str]:
    return [commit.title for commit in hub.repository(name, kind).find("main").history()]


# --- one commit or none


def test_a_folder_is_pushed_in_one_commit_and_again_in_none(hub, folder):
    first = push_folder(folder, "user/x", private=True)
    assert hub.files("user/x").keys() == {".gitattributes", *PUSHED} and hub.repository("user/x").private
    assert push_folder(folder, "user/x", private=True).oid == first.oid
    assert titles(hub) == ["Push out", "initial commit"]
    (folder / "config.json").write_text('{"a": 1}')
    push_folder(folder, "user/x", message="Again")
    assert titles(hub)[0] == "Again" and hub.routes().count("upload") == 1


def test_an_adapter_takes_the_place_of_a_sharded_model(hub, folder, tmp_path):
    for number in (1, 2):
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(WEIGHTS)
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "samples.png").write_bytes(b"1")
    push_folder(folder, "user/x")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "user/base"}')
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(WEIGHTS)
    push_folder(tmp_path / "adapter", "user/x")
    assert hub.files("user/x").keys() == {
        *(".gitattributes", "README.md", "samples.png"),
        *("adapter_config.json", "adapter_model.safetensors"),
    }
    assert len(titles(hub)) == 3


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_busy_hub_is_asked_for_the_commit_again(hub, folder, status):
    hub.fail("commit", status, times=2)
    push_folder(folder, "user/x")
    assert titles(hub) == ["Push out", "initial commit"] and hub.routes().count("upload") == 1


def test_it_waits_as_long_as_it_is_told(hub, folder, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.fail("commit", 429, retry_after=30)
    push_folder(folder, "user/x")
    assert waits == [30.0]


def test_a_lost_answer_makes_no_second_commit(hub, folder):
    hub.lose_answer("commit")
    push_folder(folder, "user/x")
    assert titles(hub) == ["Push out", "initial commit"] and hub.routes().count("commit") == 1


def test_a_push_that_fails_for_good_changes_nothing_and_tells_how_to_go_on(hub, folder):
    push_folder(folder, "user/x")
    (folder / "config.json").write_text('{"a": 1}')
    before = hub.files("user/x")
    hub.fail("commit", 503, times=3)
    with pytest.raises(ConnectionError) as error:
        push_folder(folder, "user/x", revision="main")
    assert str(error.value) == (
        "The push to user/x failed: the Hub answered 503 (Broken by the test). Nothing changed there, and everything "
        f"is in {folder}. Push it later with `python -m hf_transfer push {folder} user/x --revision main`."
    )
    assert hub.files("user/x") == before and (folder / "model.safetensors").read_bytes() == WEIGHTS
    push_folder(folder, "user/x")
    assert hub.files("user/x")["config.json"] == b'{"a": 1}'


def test_a_refusal_is_not_repeated(hub, folder):
    hub.fail("commit", 403)
    with pytest.raises(PermissionError, match=r"answered 403 \(Broken by the test\); the token may not write there"):
        push_folder(folder, "user/x")
    assert hub.routes().count("commit") == 1


def test_a_file_that_went_away(hub, folder):
    repo_id = open_repository("user/x")
    with pytest.raises((OSError, ValueError), match="The push to user/x failed: .*gone"):
        push_files({"a": folder / "gone"}, repo_id, folder=folder, message="m")
    assert titles(hub) == ["initial commit"]


# --- the repository, before a run


def arguments(tmp_path, **options) -> TrainingArguments:
    defaults = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "push_to_hub": True, "hub_model_id": "user/x"}
    return TrainingArguments(**{**defaults, **options})


@pytest.fixture
def warnings(monkeypatch):
    found: list[str] = []
    logger = logging.get_logger(repository.__name__)
    monkeypatch.setattr(logger, "warning", lambda text, *args: found.append(text))
    return found


def test_a_repository_is_opened_before_the_run(hub, tmp_path, warnings):
    assert check_push(arguments(tmp_path, hub_private_repo=True)) == "user/x" and hub.repository("user/x").private
    assert check_push(arguments(tmp_path, hub_model_id=None)) == "user/run" and not warnings
    assert titles(hub) == ["initial commit"]  # the question whether it may write changes nothing


def test_only_the_main_process_asks(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "process_index", property(lambda self: 1))
    assert check_push(arguments(tmp_path)) is None and not hub.requests


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"hub_token": "hf_wrong"}, PermissionError, "Opening the repository user/x failed: the Hub answered 401"),
        ({"hub_model_id": "other/x"}, PermissionError, "answered 403.*Give a name of your own as `hub_model_id`"),
        ({"hub_model_id": "a/b/c"}, ValueError, "Opening the repository a/b/c failed: Repo id must be"),
        ({"hub_revision": "no"}, PermissionError, "answered 404.*no such repository or branch"),
    ],
)
def test_what_the_hub_refuses_is_an_error_before_the_run(hub, tmp_path, options, kind, text):
    with pytest.raises(kind, match=text) as error:
        check_push(arguments(tmp_path, **options))
    assert "hf_wrong" not in str(error.value)


def test_a_token_that_may_only_read(hub, tmp_path):
    open_repository("user/x")
    hub.users["hf_other"] = "other"
    with pytest.raises(PermissionError, match="Opening the repository user/x failed: the Hub answered 403"):
        check_push(arguments(tmp_path, hub_token="hf_other"))


def test_without_a_token(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="answered 401.*log in with `hf auth login`"):
        check_push(arguments(tmp_path))


def test_private_is_not_public(hub, tmp_path):
    open_repository("user/x")
    with pytest.raises(
        PermissionError, match="user/x is public: everybody would see.*Make it private in its settings"
    ):
        check_push(arguments(tmp_path, hub_private_repo=True))


def test_out_of_reach_is_a_warning_with_the_command_for_later(hub, tmp_path, warnings, monkeypatch):
    from huggingface_hub import constants

    hub.fail("create", 503, times=3)
    assert check_push(arguments(tmp_path)) is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert check_push(arguments(tmp_path, hub_private_repo=True)) is None
    assert "the Hub answered 503" in warnings[-2] and "HF_HUB_OFFLINE is set" in warnings[-1]
    assert f"`python -m hf_transfer push {tmp_path}/run user/x --private`" in warnings[-1]


def test_a_name_that_does_not_resolve(hub, tmp_path, warnings, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert check_push(arguments(tmp_path)) is None
    assert "Name or service not known" in warnings[-1] and not hub.requests


# --- what leaves the machine


def test_folders_of_the_machine_are_not_named(tmp_path):
    adapter = {"base_model_name_or_path": str(tmp_path / "base"), "r": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": f"{tmp_path}/checkpoint-4"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(WEIGHTS)
    files = {path.name: path for path in tmp_path.iterdir()}
    found = without_machine_paths(files)
    assert found["adapter_model.safetensors"] == files["adapter_model.safetensors"]
    contents = [json.loads(found[name]) for name in ("adapter_config.json", "trainer_state.json")]  # pyright: ignore
    assert contents == [{"base_model_name_or_path": None, "r": 2}, {"best_model_checkpoint": "checkpoint-4"}]
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == adapter  # on disk it stays


@pytest.mark.parametrize("links", [True, False])
def test_staged_files_outlive_the_originals(tmp_path, links, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError("no links here")))
    source = tmp_path / "checkpoint-2" / "model.safetensors"
    source.parent.mkdir()
    source.write_bytes(WEIGHTS)
    staged = stage({"last-checkpoint/model.safetensors": source}, tmp_path)
    source.unlink()
    assert staged["last-checkpoint/model.safetensors"].read_bytes() == WEIGHTS
    clear_stages(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


# --- the command


def test_the_command(hub, folder, capsys):
    main(["push", str(folder), "user/x", "--private", "--message", "By hand"])
    assert hub.files("user/x").keys() == {".gitattributes", *PUSHED} and hub.repository("user/x").private
    oid = hub.repository("user/x").find("main").oid
    assert capsys.readouterr().out == f"{hub.url}/user/x/commit/{oid}\n" and titles(hub)[0] == "By hand"


def test_the_command_pushes_tables(hub, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"PAR1")
    main(["push", str(tmp_path), "user/t", "--dataset"])
    assert hub.files("user/t", kind="dataset").keys() == {".gitattributes", "data/train.parquet"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["no/folder", "user/x"], "There is no folder no/folder"),
        (["{}", "other/x"], "Opening the repository other/x failed: the Hub answered 403"),
        (["{}", "user/x", "--dataset"], "holds no data/\\*.parquet: there is no table to push"),
    ],
)
def test_the_command_tells_in_one_line_and_ends_with_a_status(hub, folder, capsys, words, text):
    with pytest.raises(SystemExit) as ended:
        main(["push", *(word.format(folder) for word in words)])
    assert ended.value.code == 2
    import re

    assert re.search(text, capsys.readouterr().err)
