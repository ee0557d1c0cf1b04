"""`load_adapter` and the Hub of `tests.hub_server`: by revision, in a fresh process, and when something is wrong."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants
from peft import get_peft_model
from transformers import AutoTokenizer

from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.portable import remove_machine_paths
from hf_transfer.adapters.saving import save_adapter
from tests.adapters.saved import LABELS, config_for, load_base, logits, moved
from tests.hub_repository import File
from tests.hub_server import HubServer


# as in tests/test_push_to_hub.py
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

KINDS = ("text", "tokens", "image")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer() as hub, hub.connected(tmp_path_factory.mktemp("home")):
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, bases, tmp_path_factory) -> dict[str, tuple[str, torch.Tensor]]:
    """By kind the commit of an adapter in `user/adapter-KIND`, and its logits; adapter and base have changed since."""
    api, found = HfApi(token=hub.token), {}
    for kind in KINDS:
        name, folder = f"user/adapter-{kind}", tmp_path_factory.mktemp(kind)
        api.create_repo(f"user/base-{kind}", private=True)
        api.upload_folder(repo_id=f"user/base-{kind}", folder_path=str(bases[kind]))
        base = load_base(kind, f"user/base-{kind}", token=hub.token)
        model = moved(get_peft_model(base, config_for(kind)))
        save_adapter(model, folder)
        remove_machine_paths(folder)
        api.create_repo(name, private=True)
        commit = api.upload_folder(repo_id=name, folder_path=str(folder))
        found[kind] = commit.oid, logits(model)
        save_adapter(moved(model, seed=9), folder)
        api.upload_folder(repo_id=name, folder_path=str(folder))
        moved(load_base(kind, bases[kind], ["a", "b"])).push_to_hub(f"user/base-{kind}", token=hub.token)
    return found


LOAD = """
import json, sys, torch
from hf_transfer.adapters.loading import load_adapter
from tests.adapters.saved import logits

found = {}
for kind, commit in json.loads(sys.argv[1]).items():
    model, processor = load_adapter(f"user/adapter-{kind}", revision=commit)
    merged = load_adapter(f"user/adapter-{kind}", revision=commit, merge=True).model
    found[kind] = {
        "logits": logits(model).tolist(),
        "merged": logits(merged).tolist(),
        "labels": list(model.config.id2label.values()),
        "processor": type(processor).__name__,
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_fresh_process_gets_the_same_logits_by_revision(hub, pushed, tmp_path):
    commits = json.dumps({kind: commit for kind, (commit, _) in pushed.items()})
    environment = {**hub.environment(tmp_path, hub.token), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", LOAD, commits], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.token not in done.stdout + done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    for kind, (_, expected) in pushed.items():
        assert torch.equal(torch.tensor(loaded[kind]["logits"]), expected)
        torch.testing.assert_close(torch.tensor(loaded[kind]["merged"]), expected, rtol=1e-4, atol=1e-5)
        assert loaded[kind]["labels"] == LABELS
        assert loaded[kind]["processor"] != "NoneType"


@pytest.mark.parametrize("kind", KINDS)
def test_latest_revision_is_another_adapter_on_the_same_base(hub, pushed, kind):
    model, _ = load_adapter(f"user/adapter-{kind}", token=hub.token)
    assert not torch.equal(logits(model), pushed[kind][1])


def test_base_comes_at_the_commit_of_the_training(hub, pushed):
    sidecar = json.loads(hub.files("user/adapter-text")["task_config.json"])
    commits = [commit.oid for commit in hub.repository("user/base-text").find("main").history()]
    assert sidecar["base_model"] == "user/base-text" and sidecar["base_commit"] == commits[1]
    model, _ = load_adapter("user/adapter-text", token=hub.token)
    assert model.peft_config["default"].revision == commits[1]
    with pytest.raises(ValueError, match="are not those it was trained on.*base_revision"):
        load_adapter("user/adapter-text", base_revision="main", token=hub.token)


def test_what_is_fetched_is_what_is_needed(hub, pushed, bases, tmp_path):
    api = HfApi(token=hub.token)
    others = ("pytorch_model.bin", "optimizer.pt", "checkpoint-2/adapter_model.safetensors", "run.py", "a b[1].txt")
    for path in others:
        api.upload_file(path_or_fileobj=b"x", path_in_repo=path, repo_id="user/adapter-image")
    AutoTokenizer.from_pretrained(bases["text"]).push_to_hub("user/adapter-image", token=hub.token)
    hub.requests.clear()
    load_adapter("user/adapter-image", token=hub.token)
    fetched = {ask.path.rsplit("/main/")[-1].rsplit("/", 1)[-1] for ask in hub.requests if "/resolve/" in ask.path}
    assert "tokenizer_config.json" in fetched
    assert not fetched & {"pytorch_model.bin", "optimizer.pt", "run.py"}
    assert not [ask.path for ask in hub.requests if "checkpoint-2" in ask.path]


# --- trouble


def told(error: pytest.ExceptionInfo[Any], hub: HubServer) -> str:
    """Everything the user would see, which must not hold the token."""
    chain, text = error.value, ""
    while chain is not None:
        text += str(chain)
        chain = chain.__cause__ or chain.__context__
    assert hub.token not in text
    return str(error.value)


def copy_to(hub: HubServer, name: str, **files: bytes | None) -> None:
    """A public copy of the text adapter with some files changed, or left out where None."""
    content = {path: File(value) for path, value in hub.files("user/adapter-text").items()}
    for path, value in files.items():
        content[path] = File(value or b"")
    HfApi(token=hub.token).create_repo(name, exist_ok=True)
    kept = {path: file for path, file in content.items() if files.get(path, b"") is not None}
    hub.repository(name).commit("main", kept, "for the test")


def test_private_adapter_without_a_token(hub, pushed):
    with pytest.raises(
        OSError, match="no repository for the adapter `user/adapter-text` at `main`.*is private and"
    ) as error:
        load_adapter("user/adapter-text", token=False)
    assert "pass `token`" in told(error, hub)


def test_wrong_token(hub, pushed):
    with pytest.raises(OSError, match="answered 401|no repository for the adapter") as error:
        load_adapter("user/adapter-text", token="hf_wrongTokenOfTheTests")
    assert "hf_wrongTokenOfTheTests" not in told(error, hub)


def test_adapter_that_never_was(hub):
    with pytest.raises(OSError, match="no repository for the adapter `user/nothing`.*Check the name"):
        load_adapter("user/nothing", token=hub.token)


def test_revision_that_never_was(hub, pushed):
    with pytest.raises(OSError, match="does not have that revision of the adapter `user/adapter-text` at `v9`"):
        load_adapter("user/adapter-text", revision="v9", token=hub.token)


def test_base_that_is_gone(hub, pushed):
    sidecar = json.loads(hub.files("user/adapter-text")["task_config.json"])
    copy_to(hub, "user/orphan", **{"task_config.json": json.dumps({**sidecar, "base_model": "user/gone"}).encode()})
    with pytest.raises(OSError, match="no repository for the base model `user/gone` of `user/orphan`: it was moved"):
        load_adapter("user/orphan", token=hub.token)
    there = {"base_model": "user/base-text", "base_revision": sidecar["base_commit"]}
    model, _ = load_adapter("user/orphan", token=hub.token, **there)
    assert list(model.config.id2label.values()) == LABELS


def test_commit_of_the_base_that_is_gone(hub, pushed):
    sidecar = json.loads(hub.files("user/adapter-text")["task_config.json"])
    copy_to(hub, "user/squashed", **{"task_config.json": json.dumps({**sidecar, "base_commit": "f" * 40}).encode()})
    with pytest.raises(OSError, match="does not have that revision of the base model `user/base-text`.*base_revision"):
        load_adapter("user/squashed", token=hub.token)


def test_base_that_is_private(hub, pushed, monkeypatch, tmp_path):
    copy_to(hub, "user/public")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))  # the commit is in the other one
    with pytest.raises(OSError, match="no repository for the base model `user/base-text`.*or it is private") as error:
        load_adapter("user/public", token=False)
    told(error, hub)


def test_offline_with_and_without_a_copy_in_the_cache(hub, pushed, monkeypatch):
    commit, expected = pushed["text"]
    load_adapter("user/adapter-text", revision=commit, token=hub.token)
    copy_to(hub, "user/unseen")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert torch.equal(logits(load_adapter("user/adapter-text", revision=commit).model), expected)
    with pytest.raises(OSError, match="`user/unseen` at `main` is not in the cache, and HF_HUB_OFFLINE is set"):
        load_adapter("user/unseen")
    assert not hub.requests


def test_hub_that_is_down(hub, pushed):
    copy_to(hub, "user/down")
    hub.fail("info", 500, times=2)
    with pytest.raises(OSError, match="The Hub answered 500|cannot be reached"):
        load_adapter("user/down", token=hub.token)


def test_hub_that_is_down_after_the_adapter_was_fetched(hub, pushed):
    commit, expected = pushed["text"]
    load_adapter("user/adapter-text", revision=commit, token=hub.token)
    hub.fail("info", 500, times=2)
    assert torch.equal(logits(load_adapter("user/adapter-text", revision=commit, token=hub.token).model), expected)
    hub._faults.clear()


# --- malice


LEAVING = ("../escaped.json", "/absolute.json", "a/../../b.txt", "..\\windows.json", "C:\\x.json")


@pytest.mark.parametrize("name", LEAVING)
def test_file_names_that_leave_the_folder(hub, pushed, name):
    copy_to(hub, "user/escape", **{name: b"{}"})
    before = {path for path in Path(constants.HF_HUB_CACHE).parent.rglob("*") if "escape" not in str(path)}
    with pytest.raises(ValueError, match="The repository `user/escape` names the file .* outside of its folder"):
        load_adapter("user/escape", token=hub.token)
    assert {path for path in Path(constants.HF_HUB_CACHE).parent.rglob("*") if "escape" not in str(path)} == before


def test_pickle_is_not_even_fetched(hub, pushed):
    copy_to(hub, "user/pickle", **{"adapter_model.safetensors": None, "adapter_model.bin": b"\x80\x04."})
    hub.requests.clear()
    with pytest.raises(ValueError, match=r"holds its weights as a pickle \(adapter_model.bin\).*convert it once"):
        load_adapter("user/pickle", token=hub.token)
    assert not [ask for ask in hub.requests if "adapter_model.bin" in ask.path]


def test_subfolder_that_leaves_the_repository(hub, pushed):
    with pytest.raises(ValueError, match="`name` names the file `../x`, which would lie outside"):
        load_adapter("user/adapter-text", name="../x", token=hub.token)


def test_token_is_in_no_log_record(hub, pushed, caplog, monkeypatch):
    for name in ("hf_transfer", "huggingface_hub", "transformers", "peft"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    with caplog.at_level(logging.DEBUG):
        load_adapter("user/adapter-tokens", token=hub.token)
        with pytest.raises(OSError, match="no repository"):
            load_adapter("user/nothing", token=hub.token)
    assert caplog.records and hub.token not in caplog.text


def test_what_was_pushed_names_no_path_of_this_machine(hub, pushed, bases):
    for kind in KINDS:
        content = b"".join(hub.files(f"user/adapter-{kind}").values())
        assert str(bases[kind]).encode() not in content and b"/tmp/" not in content
