"""A head for each adapter: sizes, labels, the loss, saving and loading."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from hf_transfer.adapters.heads import (
    HeadLabels,
    follow_adapter,
    give_head,
    head_layers,
    labels_of,
    set_labels,
    switch_adapter,
)
from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.merging import logits_of, merge_adapter
from hf_transfer.adapters.saving import save_adapter
from hf_transfer.anatomy import anatomy
from hf_transfer.trial_inputs import inputs_of
from tests.models import tiny_bert, tiny_resnet, tiny_vit


def config(head: str = "classifier", targets: tuple[str, ...] = ("query", "value"), **options) -> LoraConfig:
    defaults = {"r": 2, "target_modules": list(targets), "modules_to_save": [head], "init_lora_weights": False}
    return LoraConfig(**{**defaults, **options})


def two_adapters(**options) -> nn.Module:
    """`mood` with the three labels of the base, `topic` with five."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_bert(**options), config(), adapter_name="mood")
    model.add_adapter("topic", config())
    return give_head(model.eval(), "topic", ["art", "law", "science", "sport", "war"])


def test_config_loss_and_anatomy_follow_the_adapter():
    model = two_adapters(problem_type="single_label_classification")
    ids = torch.ones(2, 3, dtype=torch.long)
    for name, count in [("topic", 5), ("mood", 3), ("topic", 5)]:
        assert switch_adapter(model, name) is model
        assert model.config.num_labels == count == len(model.config.label2id)
        output = model(input_ids=ids, labels=torch.tensor([count - 1, 0]))
        assert output.logits.shape == (2, count)
        expected = nn.functional.cross_entropy(output.logits, torch.tensor([count - 1, 0]))
        torch.testing.assert_close(output.loss, expected)
        assert model.get_submodule(anatomy(model).head).weight.shape[0] == count
    assert model.config.id2label[3] == "sport" and model.config.label2id["sport"] == 3


def test_only_the_active_adapter_and_its_head_train():
    model = two_adapters()
    for active, other in [("topic", "mood"), ("mood", "topic")]:
        switch_adapter(model, active)
        training = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert any(f"modules_to_save.{active}." in name for name in training)
        assert all(active in name.split(".") and other not in name.split(".") for name in training)
    switch_adapter(model, "mood", trainable=False)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_problem_type_that_a_loss_chose_belongs_to_its_adapter():
    model = two_adapters()
    switch_adapter(model, "mood")
    model(input_ids=torch.ones(2, 3, dtype=torch.long), labels=torch.tensor([0, 1]))
    assert model.config.problem_type == "single_label_classification"
    give_head(model, "topic", HeadLabels({0: "a", 1: "b"}, "multi_label_classification"))
    assert switch_adapter(model, "topic").config.problem_type == "multi_label_classification"
    assert switch_adapter(model, "mood").config.problem_type == "single_label_classification"


def test_labels_follow_pefts_own_switch_too():
    model = two_adapters()
    switch_adapter(model, "mood")
    model.set_adapter("topic")
    assert model.config.num_labels == 3  # what PEFT leaves behind
    follow_adapter(model)
    assert model.config.num_labels == 5
    assert labels_of(model, "mood").num_labels == 3
    model.set_adapter("mood")
    assert merge_adapter(model).config.num_labels == 3


def test_names_given_in_the_config_stay_with_the_adapter():
    model = two_adapters()
    switch_adapter(model, "mood")
    model.config.id2label = {0: "bad", 1: "fair", 2: "good"}
    switch_adapter(model, "topic")
    assert switch_adapter(model, "mood").config.id2label == {0: "bad", 1: "fair", 2: "good"}
    set_labels(model, "mood", HeadLabels({0: "x", 1: "y", 2: "z"}))
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}


def test_an_adapter_added_later_has_the_labels_of_the_base():
    model = two_adapters()
    switch_adapter(model, "topic")
    model.add_adapter("third", config())
    assert labels_of(model, "third").num_labels == 3
    assert switch_adapter(model, "third").config.num_labels == 3


@pytest.mark.parametrize(
    ("make", "head", "targets"),
    [(tiny_vit, "classifier", ("q_proj", "query")), (tiny_resnet, "classifier.1", ("convolution",))],
)
def test_images(make, head, targets):
    model = get_peft_model(make(), config(head, targets), adapter_name="one")
    model.add_adapter("two", config(head, targets))
    give_head(model, "two", ["one", "two"])
    inputs = inputs_of(model)
    assert logits_of(switch_adapter(model, "two"), inputs).shape == (4, 2)
    assert logits_of(switch_adapter(model, "one"), inputs).shape == (4, 3)


def test_heads_of_other_sizes_survive_saving(tmp_path):
    model = two_adapters()
    inputs = inputs_of(model)
    expected = {name: logits_of(switch_adapter(model, name), inputs) for name in ("mood", "topic")}
    base_weights = {name: tensor for name, tensor in model.state_dict().items() if "lora" not in name}
    save_adapter(model, tmp_path)
    torch.manual_seed(0)
    again = get_peft_model(tiny_bert(), config(), adapter_name="other")
    assert all(torch.equal(base_weights[n], t) for n, t in again.state_dict().items() if n in base_weights)
    load_adapter(tmp_path, base_model=again, name="topic")
    assert torch.equal(logits_of(again, inputs), expected["topic"])
    assert again.config.id2label[4] == "war"
    load_adapter(tmp_path, base_model=again, name="mood")
    assert torch.equal(logits_of(again, inputs), expected["mood"])
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert torch.equal(logits_of(switch_adapter(again, "topic"), inputs), expected["topic"])


def test_loaded_labels_without_names_are_numbered(tmp_path):
    model = two_adapters()
    model.save_pretrained(tmp_path)
    # the active adapter has as many outputs as the saved one, the base fewer
    switch_adapter(model, "topic")
    load_adapter(tmp_path / "topic", base_model=model, name="again", trainable=True)
    assert model.config.id2label == {number: f"LABEL_{number}" for number in range(5)}
    training = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert training and all("again" in name.split(".") for name in training)


def test_a_head_of_the_size_of_the_base_has_its_labels(tmp_path):
    model = two_adapters()
    model.save_pretrained(tmp_path)
    names = dict(labels_of(model, "mood").id2label)
    switch_adapter(model, "topic")
    load_adapter(tmp_path / "mood", base_model=model, name="again")
    assert model.config.id2label == names and labels_of(model, "topic").num_labels == 5


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("broken", ["width", "weights", "head"])
def test_what_does_not_fit_leaves_the_model_as_it_was(tmp_path, trainable, broken):
    two_adapters().save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = get_peft_model(tiny_bert(hidden_size=32 if broken == "width" else 16), config(), adapter_name="mood")
    model = give_head(model, "mood", ["bad", "good"])
    switch_adapter(model, "mood", trainable=trainable)
    file = tmp_path / "topic" / "adapter_model.safetensors"
    state = load_file(file)
    if broken == "weights":
        state["base_model.model.bert.encoder.layer.9.output.dense.lora_A.weight"] = torch.ones(2, 2)
    elif broken == "head":
        state["base_model.model.classifier.bias"] = torch.ones(4)
    save_file(state, file)
    before = {name: (parameter.clone(), parameter.requires_grad) for name, parameter in model.named_parameters()}
    config_before, active = model.config.to_dict(), model.active_adapters
    with pytest.raises(ValueError, match="does not fit|has another size"):
        load_adapter(tmp_path / "topic", base_model=model, name="b", trainable=True)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and list(model.peft_config) == ["mood"]
    assert all(torch.equal(after[n], old) and after[n].requires_grad == grad for n, (old, grad) in before.items())
    assert model.active_adapters == active and model.config.to_dict() == config_before


def test_a_name_that_is_taken(tmp_path):
    model = two_adapters()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has an adapter `mood` already, which would be .*delete_adapter"):
        load_adapter(tmp_path / "topic", base_model=model, name="mood")
    with pytest.raises(FileNotFoundError, match="holds several adapters .* Choose from mood, topic"):
        load_adapter(tmp_path, base_model=model, name="b")


def test_saved_adapters_of_other_kinds_are_refused(tmp_path):
    from peft import IA3Config

    model = two_adapters()
    ia3 = get_peft_model(tiny_bert(), IA3Config(target_modules=["query"], feedforward_modules=[]))
    ia3.save_pretrained(tmp_path / "ia3")
    with pytest.raises(ValueError, match="of type IA3, and the model has LORA: PEFT holds one .*without `base_model`"):
        load_adapter(tmp_path / "ia3", base_model=model, name="b")


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora"])
def test_starts_out_of_the_base_are_refused_beside_others(tmp_path, start):
    get_peft_model(tiny_bert(), config(init_lora_weights=start)).save_pretrained(tmp_path)
    model = two_adapters()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    message = rf'began with init_lora_weights="{start}", which took its start out .*save it converted'
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path, base_model=model, name="b")
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    # by itself, on the model that it began on, it is read as before
    torch.manual_seed(0)
    assert load_adapter(tmp_path, base_model=tiny_bert()).model.peft_config["default"].init_lora_weights == start


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no adapter `none`: the model has `mood`, `topic`. Add it first"):
        switch_adapter(two_adapters(), "none")


def test_no_labels_are_refused():
    with pytest.raises(ValueError, match="No labels were given"):
        give_head(two_adapters(), "topic", [])


def test_a_head_that_is_the_base_models_is_refused():
    model = get_peft_model(tiny_bert(), config(modules_to_save=None))
    with pytest.raises(ValueError, match="`default` has no head of its own: .* `classifier` of the base model"):
        give_head(model, "default", ["a", "b"])


def test_heads_of_other_kinds_are_refused():
    model = two_adapters()
    _, holder, key, _ = next(head_layers(model, "topic"))
    bilinear = nn.Bilinear(2, 2, 5)
    holder._modules[key] = bilinear
    with pytest.raises(TypeError, match="The head is a `Bilinear`"):
        give_head(model, "topic", ["a", "b"])


def test_prompts_have_heads_too():
    model = get_peft_model(tiny_bert(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    assert switch_adapter(model, "default").config.num_labels == 3
