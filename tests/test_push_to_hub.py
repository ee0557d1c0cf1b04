"""
`TransferTrainer` and the Hub: what a push leaves there, and that others can open it.

The pushes run in this process against the Hub of `tests.hub_server`; `tests.hub.test_round_trip` opens such in a fresh
one.
"""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.utils import http_backoff
from safetensors.torch import load
from torch import nn
from transformers import AutoModelForSequenceClassification, TrainerCallback
from transformers.utils.logging import warning_once as logging_once

from hf_transfer import DomainAdversarial, TransferArguments, TransferTrainer, mix_domains
from hf_transfer.checkpoint import OBJECTIVES_NAME
from hf_transfer.hub import push_result, repository
from tests import models
from tests.hub_server import HubServer
from tests.invariants.run import rows


# huggingface_hub 2.4 gives LFS files to httpx2 as `data=`; drop when it gives them as `content=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


class Records(logging.Handler):
    """Everything logged, at every level, by anybody."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


INPUT_IDS = [1, 2, 3, 4]
LOGGERS = [
    logging.getLogger(name) for name in ("", "transformers", "huggingface_hub", "datasets", "accelerate", "peft")
]


@pytest.fixture(scope="module")
def records():
    handler, levels = Records(), [logger.level for logger in LOGGERS]
    for logger in LOGGERS:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler.lines
    for logger, level in zip(LOGGERS, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture(scope="module")
def hub(tmp_path_factory, records):
    # The process has no token of its own: whatever is private needs the one given in the arguments.
    with HubServer() as hub, hub.connected(tmp_path_factory.mktemp("home")):
        yield hub


@pytest.fixture
def impatient(monkeypatch):
    """Pushes that give up at the first error instead of waiting and repeating."""
    for module in (huggingface_hub.lfs, huggingface_hub._commit_api):
        monkeypatch.setattr(module, "http_backoff", functools.partial(http_backoff, max_retries=0))
    monkeypatch.setattr(repository, "WAITS", ())


class WaitForPush(TrainerCallback):
    """Let a push end before the run goes on; it reads files that the next checkpoint overwrites."""

    trainer: TransferTrainer

    def on_save(self, args, state, control, **kwargs):
        self.trainer._finish_current_push()


def trainer_for(hub: HubServer, folder: Path, name: str, model: nn.Module, **options: Any) -> TransferTrainer:
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 0.01,
        "report_to": "none",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "push_to_hub": True,
        "hub_model_id": name,
        "hub_token": hub.token,
        "hub_private_repo": True,
    }
    data: Any = mix_domains(rows(16, 0, True, False), rows(12, 1, False, False))
    waiting = WaitForPush()
    waiting.trainer = TransferTrainer(
        model,
        TransferArguments(**{**defaults, **options}),
        train_dataset=data,
        objectives=[DomainAdversarial(hidden_size=4)],
        callbacks=[waiting],
    )
    return waiting.trainer


def weights(trainer: TransferTrainer) -> dict[str, torch.Tensor]:
    assert isinstance(trainer.model, nn.Module)
    return {**trainer.model.state_dict(), **trainer.objectives.state_dict()}


def logits(model: Any) -> list[float]:
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([INPUT_IDS])).logits[0].tolist()


def commits(hub, name):
    return list(hub.repository(name).find("main").history())


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """The trainer of a whole model, trained and pushed to `user/x`."""
    torch.manual_seed(0)
    trainer = trainer_for(hub, tmp_path_factory.mktemp("x"), "user/x", models.tiny_bert())
    trainer.train()
    trainer.push_to_hub()
    return trainer


@pytest.fixture(scope="module")
def adapter(hub, tmp_path_factory):
    """The trainer of a LoRA adapter in `user/lora`, its model in `user/base`."""
    torch.manual_seed(0)
    whole: Any = models.tiny_bert()
    whole.push_to_hub("user/base", private=True, token=hub.token)
    base = AutoModelForSequenceClassification.from_pretrained("user/base", token=hub.token)
    model = models.lora(base, ["query", "value"], "classifier", task_type="SEQ_CLS")
    trainer = trainer_for(hub, tmp_path_factory.mktemp("lora"), "user/lora", model)
    trainer.train()
    trainer.push_to_hub()
    return trainer


@pytest.fixture(scope="module")
def checkpointed(hub, tmp_path_factory):
    """The trainer of a run of four steps that pushed a checkpoint to `user/run` after two and after four."""
    torch.manual_seed(0)
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "hub_strategy": "checkpoint"}
    trainer = trainer_for(hub, tmp_path_factory.mktemp("run"), "user/run", models.tiny_bert(), **options)
    trainer.train()
    return trainer


# --- a whole model


def test_repository_is_private_and_opens_with_the_token_only(hub, pushed):
    assert hub.repository("user/x").private
    model = AutoModelForSequenceClassification.from_pretrained("user/x", token=hub.token)
    assert logits(model) == logits(pushed.model)
    with pytest.raises(OSError, match="user/x is not a local folder and is not a valid model identifier"):
        AutoModelForSequenceClassification.from_pretrained("user/x", token=False)


def test_push_holds_the_model_its_card_and_no_objectives(hub, pushed):
    assert hub.files("user/x").keys() == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "training_arguments.yaml",
    }


def test_weights_are_safetensors_without_foreign_keys(hub, pushed):
    files = hub.files("user/x")
    pickles = {path for path in files if path.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))}
    assert not pickles
    assert load(files["model.safetensors"]).keys() == models.tiny_bert().state_dict().keys()
    assert b"transfer_objectives" not in b"".join(files.values())


def test_pushing_twice_without_training_changes_nothing(hub, pushed):
    before = hub.files("user/x")
    pushed.push_to_hub()
    assert hub.files("user/x") == before


def test_saving_by_hand_pushes_the_same(hub, tmp_path):
    trainer = trainer_for(hub, tmp_path, "user/by-hand", models.tiny_bert())
    trainer.save_model()
    assert commits(hub, "user/by-hand")[0].title == "Model save"
    assert load(hub.files("user/by-hand")["model.safetensors"]).keys() == models.tiny_bert().state_dict().keys()


def test_attached_model_pushes_itself_without_the_objectives(hub, pushed):
    pushed.model.push_to_hub("user/itself", token=hub.token)
    assert hub.files("user/itself")["model.safetensors"] == hub.files("user/x")["model.safetensors"]


# --- checkpoints


def test_checkpoint_on_the_hub_holds_the_objectives(hub, checkpointed):
    files = hub.files("user/run")
    saved = load(files[f"last-checkpoint/{OBJECTIVES_NAME}"])
    state = checkpointed.objectives.state_dict()
    assert saved.keys() == state.keys() and all(torch.equal(saved[key], state[key]) for key in state)
    assert OBJECTIVES_NAME not in files
    for path in ("model.safetensors", "last-checkpoint/model.safetensors"):
        assert load(files[path]).keys() == models.tiny_bert().state_dict().keys()
    assert [commit.title for commit in commits(hub, "user/run")] == [
        "Training in progress, step 4",
        "Training in progress, step 2",
        "initial commit",
    ]


def test_run_goes_on_from_the_hub_as_if_never_stopped(hub, checkpointed, tmp_path):
    halfway = commits(hub, "user/run")[1].oid
    folder = snapshot_download("user/run", revision=halfway, allow_patterns="last-checkpoint/*", token=hub.token)
    trainer = trainer_for(hub, tmp_path, "user/again", models.tiny_bert(), max_steps=4)
    trainer.train(resume_from_checkpoint=f"{folder}/last-checkpoint")
    assert trainer.state.global_step == 4
    ours, theirs = weights(trainer), weights(checkpointed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_checkpoint_that_lost_its_objectives_on_the_way_is_refused(hub, checkpointed, tmp_path):
    everything_else = snapshot_download(
        "user/run",
        allow_patterns="last-checkpoint/*",
        ignore_patterns=f"*/{OBJECTIVES_NAME}",
        token=hub.token,
        local_dir=tmp_path / "partial",
    )
    trainer = trainer_for(hub, tmp_path / "out", "user/again", models.tiny_bert(), max_steps=4)
    with pytest.raises(ValueError, match=f"has no {OBJECTIVES_NAME}"):
        trainer.train(resume_from_checkpoint=f"{everything_else}/last-checkpoint")


# --- an adapter


def test_adapter_is_pushed_alone(hub, adapter):
    files = hub.files("user/lora")
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    keys = load(files["adapter_model.safetensors"]).keys()
    assert {key.split(".")[-2] for key in keys} == {"lora_A", "lora_B", "classifier"}
    assert b"transfer_objectives" not in b"".join(files.values())
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["task_type"]) == ("user/base", "SEQ_CLS")


def test_adapter_whose_base_is_a_folder_of_the_machine_does_not_name_it(hub, tmp_path, records):
    models.tiny_bert().save_pretrained(tmp_path / "base")  # pyright: ignore[reportCallIssue]
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    trainer = trainer_for(hub, tmp_path / "out", "user/local", models.lora(base, ["query"], "classifier"))
    logging_once.cache_clear()
    for _ in range(2):
        trainer.push_to_hub()
    files = hub.files("user/local")
    assert not [path for path, content in files.items() if str(tmp_path).encode() in content]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] is None
    on_disk = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert on_disk["base_model_name_or_path"] == str(tmp_path / "base")
    assert len([line for line in records if "a folder of this machine, which nobody else has" in line]) == 1
    assert len(commits(hub, "user/local")) == 2


def test_run_of_an_adapter_goes_on_from_the_hub(hub, tmp_path):
    def run(folder: str, steps: int, name: str) -> TransferTrainer:
        torch.manual_seed(0)
        model = models.lora(models.tiny_bert(), ["query", "value"], "classifier", task_type="SEQ_CLS")
        options = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "hub_strategy": "checkpoint"}
        return trainer_for(hub, tmp_path / folder, name, model, max_steps=steps, **options)

    straight = run("straight", 4, "user/straight")
    straight.train()
    paths = hub.files("user/straight").keys()
    assert {"last-checkpoint/optimizer.pt", f"last-checkpoint/{OBJECTIVES_NAME}", "adapter_config.json"} <= paths
    assert "last-checkpoint/training_args.bin" not in paths and "last-checkpoint/README.md" not in paths
    assert not list((tmp_path / "straight").glob("_push_*"))
    halfway = commits(hub, "user/straight")[1].oid
    folder = snapshot_download("user/straight", revision=halfway, allow_patterns="last-checkpoint/*", token=hub.token)
    again = run("again", 4, "user/again-adapter")
    again.train(resume_from_checkpoint=f"{folder}/last-checkpoint")
    ours, theirs = weights(again), weights(straight)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [("end", set()), ("every_save", set()), ("all_checkpoints", {"checkpoint-1", "checkpoint-2"})],
)
def test_checkpoints_by_strategy(hub, tmp_path, strategy, folders):
    name = f"user/{strategy}"
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "hub_strategy": strategy}
    trainer_for(hub, tmp_path, name, models.tiny_bert(), **options).train()
    files = hub.files(name)
    assert {path.split("/")[0] for path in files if "/" in path} == folders
    assert ("model.safetensors" in files) == (strategy != "end")
    assert len(commits(hub, name)) == (1 if strategy == "end" else 3)


def test_objectives_on_request(hub, tmp_path):
    trainer = trainer_for(hub, tmp_path, "user/objectives", models.tiny_bert(), push_objectives=True)
    trainer.push_to_hub()
    assert load(hub.files("user/objectives")[OBJECTIVES_NAME]).keys() == trainer.objectives.state_dict().keys()
    trainer.args.push_objectives = False  # pyright: ignore[reportAttributeAccessIssue]
    trainer.push_to_hub()
    assert OBJECTIVES_NAME not in hub.files("user/objectives")


def test_arguments_of_the_run(hub, pushed):
    told = yaml.safe_load(hub.files("user/x")["training_arguments.yaml"])
    loop = {"max_steps": 2, "learning_rate": 0.01, "per_device_train_batch_size": 4, "save_strategy": "no"}
    assert told == {**loop, "seed": 42}


# --- trouble


def test_only_the_main_process_pushes(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(TransferTrainer, "is_world_process_zero", lambda self: False)
    options = {"save_strategy": "steps", "save_steps": 1, "hub_strategy": "checkpoint"}
    trainer = trainer_for(hub, tmp_path, "user/other-rank", models.tiny_bert(), **options)
    trainer.train()
    assert trainer.push_to_hub() is None
    assert ("model", "user/other-rank") not in hub.repositories


def test_push_that_fails_in_the_middle_of_a_run_is_told_and_the_next_is_complete(hub, tmp_path, impatient, records):
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "hub_strategy": "checkpoint"}
    trainer = trainer_for(hub, tmp_path, "user/middle", models.tiny_bert(), **options)
    hub.fail("commit", 500)
    trainer.train()
    assert [commit.title for commit in commits(hub, "user/middle")] == [
        "Training in progress, step 2",
        "initial commit",
    ]
    assert [line for line in records if "The push to user/middle failed: the Hub answered 500" in line]
    assert json.loads(hub.files("user/middle")["last-checkpoint/trainer_state.json"])["global_step"] == 2


def test_hub_out_of_reach_at_the_start_is_tried_again(hub, tmp_path, impatient):
    hub.fail("create", 503)
    trainer = trainer_for(hub, tmp_path, "user/later", models.tiny_bert())
    assert trainer.hub_model_id is None
    hub.fail("create", 503)
    told = rf"answered 503 .* and everything is in {tmp_path}. .* push {tmp_path} user/later --private"
    with pytest.raises(ConnectionError, match=told):
        trainer.push_to_hub()
    assert {"model.safetensors", "README.md", "training_arguments.yaml"} <= {file.name for file in tmp_path.iterdir()}
    trainer.push_to_hub()
    assert trainer.hub_model_id == "user/later" and "model.safetensors" in hub.files("user/later")


def test_full_disk_pushes_nothing(hub, tmp_path, monkeypatch):
    trainer = trainer_for(hub, tmp_path, "user/full", models.tiny_bert())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(trainer.model), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.push_to_hub()
    assert hub.files("user/full").keys() == {".gitattributes"}


def test_recipe_ends_with_a_status_and_the_message(hub, tmp_path, impatient):
    trainer = trainer_for(hub, tmp_path, "user/status", models.tiny_bert())
    hub.fail("commit", 500)
    with pytest.raises(SystemExit, match="The push to user/status failed.*Push it later with") as ended:
        push_result(trainer, tasks="text-classification")
    assert isinstance(ended.value.code, str)  # Python prints it and ends with status 1
    push_result(trainer, tasks="text-classification")
    assert "model.safetensors" in hub.files("user/status")


def test_push_that_is_cut_leaves_the_repository_as_it_was_and_the_next_is_complete(hub, tmp_path, impatient):
    torch.manual_seed(7)  # weights that no other test uploaded: those would not be sent again
    trainer = trainer_for(hub, tmp_path, "user/cut", models.tiny_bert())
    trainer.train()
    hub.cut("upload")
    told = rf"The push to user/cut failed: .* everything is in {tmp_path}. Push it later with `python -m hf_transfer"
    with pytest.raises(ConnectionError, match=told):
        trainer.push_to_hub()
    assert hub.files("user/cut").keys() == {".gitattributes"}
    trainer.push_to_hub()
    model = AutoModelForSequenceClassification.from_pretrained("user/cut", token=hub.token)
    assert logits(model) == logits(trainer.model)


def test_push_after_a_refused_commit_is_complete(hub, tmp_path, monkeypatch):
    trainer = trainer_for(hub, tmp_path, "user/refused", models.tiny_bert())
    monkeypatch.setattr(repository, "WAITS", (0, 0))
    hub.fail("commit", 503, times=3)
    with pytest.raises(ConnectionError, match=r"the Hub answered 503 \(Broken by the test\)"):
        trainer.push_to_hub()
    assert hub.files("user/refused").keys() == {".gitattributes"}
    trainer.push_to_hub()
    assert {"README.md", "config.json", "model.safetensors"} <= hub.files("user/refused").keys()


def test_wrong_token_is_refused_at_construction(hub, tmp_path):
    with pytest.raises(PermissionError, match="the Hub answered 401.*Invalid credentials.*hub_model_id"):
        trainer_for(hub, tmp_path, "user/wrong", models.tiny_bert(), hub_token="hf_wrong")
    assert ("model", "user/wrong") not in hub.repositories


# --- the token


def tokens_in(hub) -> set[str]:
    """Names of all files, of any revision of any repository, that hold the token."""
    revisions = [commit for repository in hub.repositories.values() for commit in commits(hub, repository.name)]
    secret = hub.token.encode()
    return {path for commit in revisions for path, file in commit.files.items() if secret in file.content}


def test_token_is_in_no_file(hub, pushed, adapter, checkpointed):
    assert tokens_in(hub) == set()


def test_token_is_in_no_log_record(hub, pushed, adapter, checkpointed, records):
    assert any("(authenticated: True)" in line for line in records)  # the requests are logged
    assert not [line for line in records if hub.token in line]
    assert hub.token not in str(pushed.args) + pushed.args.to_json_string()


def test_token_is_not_in_the_repr_of_the_arguments(hub, pushed):
    assert hub.token not in repr(pushed.args)
