"""Adapters put into every kind of model: what trains, what is saved, what the rest of the package sees of it."""

from __future__ import annotations

import copy
import json
import re
import warnings

import pytest
import torch
from torch import nn

from hf_transfer import add_adapter, anatomy, attach
from hf_transfer.adapters import add as module
from hf_transfer.adapters.add import adapted_anatomy, task_type
from hf_transfer.adapters.choices import choose_saved, choose_targets
from hf_transfer.adapters.methods import METHODS, make_config
from hf_transfer.adapters.targets import layers, matched
from hf_transfer.norms import has_statistics
from hf_transfer.objectives import DeepCORAL
from tests.architectures import ARCHITECTURES, UNBUILDABLE, architecture, build
from tests.models import TINY, batch_for, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


# Options without which a method does not fit models of width 16.
SMALL = {
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 20},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 8},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "vblora": {"num_vectors": 8, "vector_length": 4},
}
LAYERED = [word for word, method in METHODS.items() if not method.is_prompt]
# Architectures to which LoRA finds no way: integer arithmetic of its own, and no head at all.
NOTHING_TO_ADAPT = {"IBertForSequenceClassification"}
NO_HEAD = {"ShieldGemma2ForImageClassification"}


def _batch(model: nn.Module) -> dict:
    batch = batch_for(model)
    del batch["domain"]
    return batch


def _logits(model: nn.Module, batch: dict) -> torch.Tensor:
    # without labels: AdaLoRA loaded for inference cannot add its term to a loss (peft 0.21)
    with torch.no_grad():
        return model.eval()(**{key: value for key, value in batch.items() if key != "labels"}).logits


def _shaken(model: nn.Module) -> nn.Module:
    """The model with everything that trains, and all statistics, moved."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    for one in model.modules():
        if has_statistics(one):
            one.running_mean += 0.5
    return model


def _shallow(one):
    try:
        return build(one, num_hidden_layers=2)
    except Exception:  # some configs list their layers, and cannot be cut like this
        return build(one)


def test_every_architecture(capsys):
    """Linear layers and convolutions in the blocks are targeted, exactly, and neither head nor embeddings."""
    refused, done, seen = {}, 0, set()
    for one in ARCHITECTURES:
        # of a model that classifies texts and tokens the layers are the same: one of the two is enough
        text = one.class_name.replace("ForTokenClassification", "ForSequenceClassification")
        if one.class_name in UNBUILDABLE or text in seen:
            continue
        seen.add(text)
        model = _shallow(one)
        try:
            found = adapted_anatomy(model)
            config = make_config("lora", {})
            saved = choose_saved(model, found, config, task_type(model))
            choose_targets(model, found, config, METHODS["lora"], saved)
        except ValueError as error:
            refused[one.class_name] = str(error).partition(";")[0]
            continue
        inside = tuple(f"{name}." for name in saved)
        names = [name for name, _ in model.named_modules() if not f"{name}.".startswith(inside)]
        patterns = config.target_modules
        targets = matched(patterns if isinstance(patterns, str) else sorted(patterns), names)
        assert targets, one.id
        part_of = {name: part for name, part in found.part_of().items()}
        for target in targets:
            layer = model.get_submodule(target)
            assert type(layer).__name__ == "Conv1D" or isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            # a tied weight is listed under another name
            assert part_of.get(f"{target}.weight", "block.").startswith("block."), (one.id, target)
            assert getattr(layer, "groups", 1) == 1
        heads = found.modules("head")
        assert all(any(f"{head}.".startswith(f"{kept}.") for kept in saved) for head in heads), one.id
        assert not set(targets) & set(heads)
        done += 1
    with capsys.disabled():
        print(f"\nLoRA: targets for {done} of {len(seen)} architectures; none for {', '.join(sorted(refused))}")
    assert set(refused) == NOTHING_TO_ADAPT | NO_HEAD


@pytest.mark.parametrize("word", LAYERED)
@pytest.mark.parametrize("kind", ["bert", "gpt2", "resnet"])
def test_every_method_trains_saves_and_loads(kind, word, tmp_path):
    from peft import PeftModel

    torch.manual_seed(0)
    model = TINY[kind]()
    types = {layer.type for layer in layers(model, anatomy(model))}
    if not types & set(METHODS[word].layers):
        with pytest.raises(ValueError, match=r"has none among all.*nothing to train but.*Take another method"):
            add_adapter(model, word, **SMALL.get(word, {}))
        return
    base, bare = copy.deepcopy(model), copy.deepcopy(model)
    batch = _batch(model)
    before = _logits(model, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OFT and BOFT tell of sizes they adjust and of a missing CUDA kernel
        adapted = add_adapter(model, word, **SMALL.get(word, {}))
        if word not in {"c3a", "fourierft", "vblora"}:  # these start at random
            torch.testing.assert_close(_logits(adapted, batch), before, atol=1e-4, rtol=1e-4)
        adapted.train()(**batch).loss.backward()
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        assert trained and all(parameter.grad is not None for parameter in trained)
        after = _logits(_shaken(adapted), batch)
        assert not torch.equal(after, before)
        adapted.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(base, tmp_path)
    tolerance = 1e-4 if word in {"pissa", "olora", "orthogonal"} else 0.0  # these decompose the base once more
    torch.testing.assert_close(_logits(loaded, batch), after, atol=tolerance, rtol=tolerance)
    # what is not saved is as it was
    frozen = {name: p for name, p in adapted.get_base_model().named_parameters() if "original_module" in name}
    originals = dict(bare.named_parameters())
    assert all(torch.equal(p, originals[name.replace(".original_module", "")]) for name, p in frozen.items())


def test_the_config_is_readable(tmp_path):
    adapted = add_adapter(tiny_bert(), "lora", r=2)
    adapted.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(saved["target_modules"]) == ["dense", "key", "query", "value"]
    assert saved["modules_to_save"] == ["bert.pooler", "classifier", "score"]
    assert (saved["task_type"], saved["r"]) == ("SEQ_CLS", 2)
    add_adapter(tiny_vit()).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["task_type"] is None
    assert saved["auto_mapping"]["base_model_class"] == "ViTForImageClassification"


@pytest.mark.parametrize(
    ("make", "expected"),
    [(tiny_bert, "SEQ_CLS"), (tiny_token_bert, "TOKEN_CLS"), (tiny_llama, "SEQ_CLS"), (tiny_vit, None)],
)
def test_the_task_type(make, expected):
    assert task_type(make()) == expected
    assert add_adapter(make()).peft_config["default"].task_type == expected


def test_a_forward_that_pefts_does_not_fit_has_no_task():
    assert task_type(build(architecture("PerceiverForSequenceClassification"))) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("attention", {"query", "key", "value", "attention.output.dense"}),
        (["mlp"], {"intermediate.dense", "output.dense"}),
        (["attention", "mlp"], {"dense", "key", "query", "value"}),
        (["query", "value"], {"query", "value"}),
        (r".*\.query", {"query"}),
        ("all-linear", {"query", "key", "value", "dense"}),
    ],
)
def test_targets_can_be_narrowed(words, expected):
    adapted = add_adapter(tiny_bert(), target_modules=words)
    taken = {
        re.sub(r"^base_model\.model\.bert\.encoder\.layer\.\d+\.", "", name)
        for name, one in adapted.named_modules()
        if hasattr(one, "lora_A")
    }
    assert {name for name in taken if not any(name.endswith(end) for end in expected)} == set()
    assert all(any(name.endswith(end) for name in taken) for end in expected)
    if words == ["mlp"]:
        assert not any("attention" in name for name in taken)


def test_ia3_names_the_layers_whose_input_it_scales():
    config = add_adapter(tiny_llama(), "ia3").peft_config["default"]
    assert config.feedforward_modules == {"down_proj"}
    assert config.target_modules == {"k_proj", "v_proj", "down_proj"}
    narrowed = add_adapter(tiny_bert(), "ia3", target_modules=["key", "output.dense"])
    scales = {name.rpartition(".ia3_l")[0]: p.shape for name, p in narrowed.named_parameters() if "ia3_l" in name}
    by_input = {name for name, shape in scales.items() if shape[0] == 1}
    assert {re.sub(r".*layer\.\d+\.", "", name) for name in by_input} == {"output.dense"}


def test_the_users_config_is_honoured():
    from peft import LoraConfig

    config = LoraConfig(r=3, target_modules=["query"])
    adapted = add_adapter(tiny_bert(), config)
    taken = adapted.peft_config["default"]
    assert (taken.r, taken.target_modules, taken.task_type) == (3, {"query"}, None)
    assert taken.modules_to_save == ["bert.pooler", "classifier"]
    assert config.modules_to_save is None  # the caller's object is not written into
    own = add_adapter(tiny_bert(), LoraConfig(modules_to_save=["classifier"])).peft_config["default"]
    assert own.modules_to_save == ["classifier"]
    assert {"query", "key", "value"} < set(own.target_modules)


def test_top_blocks_train_in_full_and_take_no_adapter():
    adapted = add_adapter(tiny_bert(), train_blocks=1)
    top = "base_model.model.bert.encoder.layer.2"
    found = anatomy(adapted)
    assert found.blocks[-1].startswith(top) and len(found.blocks) == 3
    inside = {name: p for name, p in adapted.named_parameters() if name.startswith(f"{top}.")}
    assert not any("lora_" in name for name in inside)
    assert {name for name, p in inside.items() if p.requires_grad} == {n for n in inside if ".modules_to_save." in n}
    assert set(found.parts()["block.2"]) == set(inside)
    adapted(**_batch(adapted)).loss.backward()
    assert all(p.grad is not None for name, p in inside.items() if p.requires_grad)


def test_a_schedule_thaws_the_top_blocks_later(tmp_path):
    from hf_transfer import TransferArguments, TransferTrainer, UnfreezingSchedule

    torch.manual_seed(0)
    adapted = add_adapter(tiny_bert(), train_blocks=1, r=2)
    start = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    rows = [{key: value[i] for key, value in _batch(adapted).items()} for i in range(4)]
    moved: list[set[str]] = []

    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            moved.append({name for name, p in adapted.named_parameters() if not torch.equal(p, start[name])})

    trainer = TransferTrainer(
        adapted,
        args=TransferArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            learning_rate=1e-2,
            head_lr=1e-2,
            layer_decay=0.5,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        callbacks=[
            Watch(),
            UnfreezingSchedule(
                [
                    {"train": ["head", "neck", "block.0", "block.1"]},
                    {"fraction": 0.5, "train": ["head", "neck", "block.0", "block.1", "block.2"]},
                ]
            ),
        ],
    )
    trainer.train()
    assert not any("layer.2." in name for name in moved[1])
    assert any("lora_B" in name for name in moved[0])
    assert any("layer.2.modules_to_save" in name for name in moved[-1])
    assert all("lora_" in name or "modules_to_save" in name for name in moved[-1])


def test_objectives_see_the_features_of_the_saved_head():
    adapted = add_adapter(tiny_bert(), train_blocks=1)
    with attach(adapted, [DeepCORAL()]) as attachment:
        adapted.train()(**batch_for(adapted)).loss.backward()
        assert attachment.terms
    gradients = [p.grad for name, p in adapted.named_parameters() if "layer.0" in name and "lora_B" in name]
    assert gradients and all(gradient.abs().sum() > 0 for gradient in gradients)


def test_activation_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    plain = add_adapter(tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), train_blocks=1)
    saving = copy.deepcopy(plain)
    enable = "activation_checkpointing_enable"  # its name in transformers 5.23
    getattr(saving, enable if hasattr(saving, enable) else "gradient_checkpointing_enable")()
    batch = _batch(plain)
    for model in (plain, saving):
        model.train()(**batch).loss.backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    found = {name: p.grad for name, p in saving.named_parameters() if p.requires_grad}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_a_second_adapter_is_added_and_active():
    adapted = add_adapter(tiny_bert())
    first = {name: p.detach().clone() for name, p in adapted.named_parameters() if ".default" in name}
    same = add_adapter(adapted, "lora", name="other", r=2, target_modules="attention")
    assert same is adapted
    assert adapted.active_adapter == "other"
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all(".other" in name for name in trained)
    assert any("classifier.modules_to_save.other" in name for name in trained)
    assert not any("intermediate" in name for name in trained)
    adapted(**_batch(adapted)).loss.backward()
    assert all(torch.equal(p, first[name]) for name, p in adapted.named_parameters() if name in first)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (0, 1)])
def test_adapters_of_one_model_train_the_same_blocks(first, second):
    adapted = add_adapter(tiny_bert(), train_blocks=first)
    with pytest.raises(ValueError, match=r"layer\.2` is trained whole by one adapter and not by.*same `train_b"):
        add_adapter(adapted, name="other", train_blocks=second)
    add_adapter(adapted, name="third", train_blocks=first)


def test_two_heads_are_both_saved():
    model = build(architecture("SwiftFormerForImageClassification"))
    adapted = add_adapter(model)
    assert {"head", "dist_head"} <= set(adapted.peft_config["default"].modules_to_save)


def test_robertas_head_is_wrapped_once():
    from peft.utils.other import ModulesToSaveWrapper

    model = build(architecture("RobertaForSequenceClassification"), num_hidden_layers=1)
    adapted = add_adapter(model)
    wrappers = [name for name, one in adapted.named_modules() if isinstance(one, ModulesToSaveWrapper)]
    assert wrappers == ["base_model.model.classifier"]


def test_a_known_checkpoint_leaves_the_pooler_frozen(tmp_path):
    from transformers import BertForSequenceClassification

    tiny_bert().save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    adapted = add_adapter(model)
    assert adapted.peft_config["default"].modules_to_save == ["classifier", "score"]
    assert adapted.peft_config["default"].base_model_name_or_path == str(tmp_path)
    assert not any("pooler" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_without_a_checkpoint_a_warning_says_so(monkeypatch):
    from hf_transfer.adapters import choices

    said: list[str] = []
    monkeypatch.setattr(choices.logger, "warning_once", said.append)
    add_adapter(tiny_bert())
    assert "was not loaded from a checkpoint" in said[0] and "save_pretrained" in said[0]


def test_float16_is_warned_of(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(module.logger, "warning_once", said.append)
    add_adapter(tiny_bert().half())
    assert "float16" in said[0] and "torch.bfloat16" in said[0]
    said.clear()
    add_adapter(tiny_bert().bfloat16())
    assert not said


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"modules_to_save": ["pooller"]}, r'modules_to_save has "pooller", with which no name.*Near it are.*pooler'),
        ({"target_modules": ["querry"]}, r'target_modules has "querry".*nothing would be trained.*query.*attention'),
        ({"method": "lora", "rnk": 2}, r"`rnk` is no option of lora"),
        ({"method": "zzz"}, r"`zzz` is no method with a word"),
        ({"target_modules": "convolution"}, r"LoraConfig adapts.*has none among convolution.*Take another method"),
        ({"train_blocks": 9}, r"train_blocks=9, but BertForSequenceClassification has 3 blocks"),
    ],
)
def test_wrong_arguments_are_told(arguments, match):
    with pytest.raises(ValueError, match=match):
        add_adapter(tiny_bert(), **arguments)


def test_what_stands_in_the_config_is_not_given_twice():
    from peft import LoraConfig

    with pytest.raises(ValueError, match=r"r beside a LoraConfig.*unclear.*Set them in the config"):
        add_adapter(tiny_bert(), LoraConfig(), r=2)
    with pytest.raises(ValueError, match=r"`target_modules` stands in the config.*unclear.*Leave it out"):
        add_adapter(tiny_bert(), LoraConfig(target_modules=["query"]), target_modules="mlp")
    with pytest.raises(ValueError, match=r"`modules_to_save` stands in the config.*unclear.*name everything there"):
        add_adapter(tiny_bert(), LoraConfig(modules_to_save=["classifier"]), train_blocks=1)


def test_models_that_cannot_be_wrapped_now():
    from peft import LoraConfig, inject_adapter_in_model

    adapted = add_adapter(tiny_bert())
    with pytest.raises(ValueError, match=r"has an adapter `default` already.*overwritten.*another `name`"):
        add_adapter(adapted)
    model = tiny_bert()
    with attach(model, [DeepCORAL()]):
        with pytest.raises(ValueError, match=r"Objectives are attached.*hooks sit on the head.*`detach\(\)`"):
            add_adapter(model)
    add_adapter(model)
    with pytest.raises(ValueError, match=r"OptimizedModule, which holds the layers as.*Add the adapter first"):
        add_adapter(torch.compile(tiny_bert(), backend="eager"))
    injected = inject_adapter_in_model(LoraConfig(target_modules=["query"]), tiny_bert())
    with pytest.raises(ValueError, match=r"without a PeftModel around them.*nested.*`unload\(\)`"):
        add_adapter(injected)
    quantised = tiny_bert()
    quantised.is_quantized = True
    with pytest.raises(ValueError, match=r"base is quantised, and pissa starts from a decomposition.*\"lora\""):
        add_adapter(quantised, "pissa")


def test_gpt2s_transposed_layers_are_told_to_peft():
    assert add_adapter(tiny_gpt2()).peft_config["default"].fan_in_fan_out is True
    assert add_adapter(tiny_bert()).peft_config["default"].fan_in_fan_out is False


def test_statistics_move_with_training_and_come_back(tmp_path):
    adapted = add_adapter(tiny_resnet(), train_blocks=1)
    before = {name: b.clone() for name, b in adapted.named_buffers()}
    adapted.train()(**_batch(adapted))
    moved = {name for name, b in adapted.named_buffers() if not torch.equal(b, before[name])}
    assert moved and all("modules_to_save" in name for name in moved)
