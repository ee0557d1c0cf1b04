"""Versions, device, time and emissions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hf_transfer.model_card.environment import device_name, emissions, seconds_of_training, versions


def test_versions_are_those_installed():
    found = versions(with_peft=False)
    assert found["torch"] == torch.__version__ and "peft" not in found and "hf_transfer" in found
    assert "peft" in versions(with_peft=True)


def test_device_names_threads_and_ranks(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    args = SimpleNamespace(device=torch.device("cpu"), world_size=1)
    assert device_name(args) == "CPU (3 threads)"
    args.world_size = 2
    assert device_name(args) == "2 x CPU (3 threads)"


def test_gpu_has_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    assert device_name(SimpleNamespace(device=torch.device("cuda"), world_size=4)) == "4 x NVIDIA A100"


def test_seconds_are_those_of_the_last_session():
    assert seconds_of_training([{"train_runtime": 1.0}, {"loss": 1.0}, {"train_runtime": 2.5}]) == 2.5
    assert seconds_of_training([{"loss": 1.0}]) is None


def run(folder, *callbacks):
    handler = SimpleNamespace(callbacks=list(callbacks))
    return SimpleNamespace(callback_handler=handler, args=SimpleNamespace(output_dir=str(folder)))


def test_emissions_are_read_off_the_tracker(tmp_path):
    tracker = SimpleNamespace(final_emissions=0.002)
    assert emissions(run(tmp_path, SimpleNamespace(), SimpleNamespace(tracker=tracker))) == 0.002


def test_emissions_are_read_off_the_file_of_the_tracker(tmp_path):
    (tmp_path / "emissions.csv").write_text("run_id,emissions\na,0.5\nb,0.25\n")
    assert emissions(run(tmp_path, SimpleNamespace(tracker=SimpleNamespace(final_emissions=None)))) == 0.25


@pytest.mark.parametrize("content", ["", "run_id,emissions\n", "run_id\na\n", "run_id,emissions\na,much\n"])
def test_file_that_says_nothing_gives_nothing(tmp_path, content):
    (tmp_path / "emissions.csv").write_text(content)
    assert emissions(run(tmp_path, SimpleNamespace(tracker=SimpleNamespace(final_emissions=None)))) is None


def test_file_of_another_run_is_not_read(tmp_path):
    (tmp_path / "emissions.csv").write_text("run_id,emissions\na,0.5\n")
    assert emissions(run(tmp_path, SimpleNamespace())) is None
