"""
Models that a `TransferTrainer` pushed after it went on from a checkpoint, opened by one fresh process that knows only
the Hub: text, images with batch normalisation and tokens; whole, as an adapter, and with the adapter merged.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from hf_transfer import DomainAdversarial, TransferArguments, TransferTrainer
from hf_transfer.adapters import add_adapter
from hf_transfer.adapters.merging import merge_adapter
from tests import models
from tests.hub_server import HubServer


# huggingface_hub 2.4 gives LFS files to httpx2 as `data=`; drop when it gives them as `content=`.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]

CLASSES = {
    "bert": "AutoModelForSequenceClassification",
    "resnet": "AutoModelForImageClassification",
    "token_bert": "AutoModelForTokenClassification",
}
HOW = ("whole", "adapter", "merged")
QUIET: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "report_to": "none",
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "remove_unused_columns": False,
    "save_strategy": "steps",
    "save_steps": 1,
}

OPEN = """
import json, sys, warnings
import torch, transformers
from hf_transfer.adapters.loading import load_adapter

classes, inputs = json.loads(sys.argv[1]), torch.load(sys.argv[2])
found = {}
for kind, batch in inputs.items():
    for how in ("whole", "adapter", "merged"):
        if how == "adapter":
            model = load_adapter(f"user/{kind}-{how}").model
        else:
            model = getattr(transformers, classes[kind]).from_pretrained(f"user/{kind}-{how}")
        with torch.no_grad():
            found[f"{kind}-{how}"] = model.eval()(**batch).logits
from peft import AutoPeftModelForSequenceClassification
stock = (AutoPeftModelForSequenceClassification, transformers.AutoModelForSequenceClassification)
with torch.no_grad():
    for number, loader in enumerate(stock):
        model = loader.from_pretrained("user/bert-adapter", num_labels=3).eval()
        found[f"stock-{number}"] = model(**inputs["bert"]).logits
report = stock[1].from_pretrained("user/bert-whole", output_loading_info=True)[1]
assert not any(report.values()), report
torch.save(found, sys.argv[3])
"""


def trainer(hub, folder, name: str, model: nn.Module, steps: int) -> TransferTrainer:
    rows = models.batch_for(model, rows=8)
    data = [{key: value[row] for key, value in rows.items()} for row in range(8)]
    options = {"push_to_hub": True, "hub_model_id": name, "hub_token": hub.token, "hub_private_repo": True}
    args = TransferArguments(str(folder), max_steps=steps, hub_strategy="end", **QUIET, **options)
    return TransferTrainer(model, args, train_dataset=data, objectives=[DomainAdversarial(hidden_size=4)])  # type: ignore[arg-type]


def resumed(hub, folder, name: str, make: Any) -> TransferTrainer:
    """A run that stopped after a step and went on in another trainer."""
    trainer(hub, folder, name, make(), 1).train()
    second = trainer(hub, folder, name, make(), 2)
    second.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    return second


@pytest.fixture(scope="module")
def trips(tmp_path_factory):
    """Logits before the push and those of the fresh process, by repository; and the files of each."""
    place = tmp_path_factory.mktemp("trips")
    before: dict[str, torch.Tensor] = {}
    inputs: dict[str, Any] = {}
    with HubServer() as hub, hub.connected(place / "home", hub.token):
        for kind, auto in CLASSES.items():
            torch.manual_seed(0)
            base: Any = models.TINY[kind]()
            batch = models.batch_for(base, rows=3, seed=9)
            inputs[kind] = {key: value for key, value in batch.items() if key not in ("labels", "domain")}
            base.push_to_hub(f"user/{kind}-base", private=True)

            def fresh(kind: str = kind, auto: str = auto) -> Any:
                import transformers

                return getattr(transformers, auto).from_pretrained(f"user/{kind}-base")

            def adapted(make: Any = fresh) -> Any:
                torch.manual_seed(1)
                return add_adapter(make(), "lora", r=2)

            def logits(model: Any, kind: str = kind) -> torch.Tensor:
                with torch.no_grad():
                    return model.eval()(**inputs[kind]).logits

            whole = resumed(hub, place / f"{kind}-whole", f"user/{kind}-whole", fresh)
            whole.push_to_hub()
            before[f"{kind}-whole"] = logits(whole.model)
            adapter = resumed(hub, place / f"{kind}-adapter", f"user/{kind}-adapter", adapted)
            adapter.push_to_hub()
            before[f"{kind}-adapter"] = before[f"{kind}-merged"] = logits(adapter.model)
            assert adapter.attachment is not None
            adapter.attachment.detach()
            merged = merge_adapter(adapter.model)  # type: ignore[arg-type]
            trainer(hub, place / f"{kind}-merged", f"user/{kind}-merged", merged, 1).push_to_hub()
        torch.save(inputs, place / "inputs.pt")
        done = subprocess.run(
            [sys.executable, "-c", OPEN, json.dumps(CLASSES), str(place / "inputs.pt"), str(place / "found.pt")],
            env=hub.environment(place / "fresh", hub.token),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert hub.token not in done.stdout + done.stderr
        files = {name: hub.files(name) for (_, name) in hub.repositories}
    return before, torch.load(place / "found.pt"), files, str(place)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", CLASSES)
def test_it_says_the_same_in_a_fresh_process(trips, kind, how):
    before, found, _, _ = trips
    name = f"{kind}-{how}"
    if how == "merged":
        torch.testing.assert_close(found[name], before[name], atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(found[name], before[name])


@pytest.mark.parametrize("loader", ["peft", "transformers"])
def test_stock_loaders_open_the_adapter(trips, loader):
    before, found, _, _ = trips
    found = found[f"stock-{('peft', 'transformers').index(loader)}"]
    torch.testing.assert_close(found, before["bert-adapter"], atol=1e-6, rtol=1e-5)


def test_it_learned_something_in_between(trips):
    before = trips[0]
    for kind in CLASSES:
        assert not torch.equal(before[f"{kind}-whole"], before[f"{kind}-adapter"])


def test_nothing_pushed_is_a_pickle_or_names_the_machine(trips):
    _, _, files, place = trips
    for name, contents in files.items():
        assert not [path for path in contents if path.endswith((".bin", ".pt", ".pth"))], name
        assert not [path for path, content in contents.items() if place.encode() in content], name
        if name.endswith("adapter"):
            assert {"adapter_config.json", "task_config.json", "training_arguments.yaml"} <= contents.keys()
            assert not contents.keys() & {"config.json", "model.safetensors", "objectives.safetensors"}
