"""Students of many architectures: equal to the teacher with blocks passed over, and saved and loaded bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig

from hf_transfer import Source, anatomy, student_from_teacher
from hf_transfer.anatomy import Anatomy
from hf_transfer.teacher import Teacher
from tests.architectures import architecture, build
from tests.models import batch_for, lora, tiny_llama
from tests.students import cut


def inputs_for(model: nn.Module) -> dict[str, torch.Tensor]:
    batch = {name: value for name, value in batch_for(model).items() if name not in ("labels", "domain")}
    if "input_ids" in batch:  # encoder-decoders classify at the end-of-sequence token, one in each row
        batch["input_ids"] = batch["input_ids"].where(batch["input_ids"] != 2, 3)
        batch["input_ids"][:, 3] = 2
    return batch


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return cut.move_norms(getattr(cut, name)())


# teacher, what to keep, and the blocks that then stay
CASES = {
    "bert, chosen": ("bert", [0, 2, 5], [0, 2, 5]),
    "bert, negative": ("bert", (1, -1), [1, 5]),
    "bert, every other": ("bert", "every_other", [0, 2, 4]),
    "bert, all": ("bert", 6, [0, 1, 2, 3, 4, 5]),
    "token bert, last half": ("token_bert", "last", [3, 4, 5]),
    "distilbert, two": ("distilbert", 2, [0, 5]),
    "bart, both towers": ("bart", "every_other", [0, 2, 4, 6]),
    "bart, unevenly": ("bart", [0, 3, 5, 6, 7], [0, 3, 5, 6, 7]),
    "t5 keeps the blocks with position biases": ("t5", "last", [0, 3, 4, 7]),
    "gemma2 keeps the alternation of attention": ("gemma2", "every_other", [0, 3, 4]),
    "gemma2, chosen": ("gemma2", [1, 3, 4], [1, 3, 4]),
    "modernbert keeps one in three global": ("modernbert", "every_other", [0, 2, 4, 6]),
    "gpt-neo, chosen": ("gpt_neo", [1, 2], [1, 2]),
    "xlm, spread over four lists": ("xlm", [1, 3], [1, 3]),
    "swin keeps pairs of windows": ("swin", "every_other", [0, 2, 5]),
    "convnext, stages": ("convnext", "every_other", [0, 2, 3, 5, 6]),
    "resnet, stages": ("resnet", 4, [0, 2, 3, 6]),
    "wav2vec2, weighted layers": ("wav2vec2", [1], [1]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_student_is_the_teacher_with_blocks_passed_over(case, tmp_path):
    name, keep_blocks, kept = CASES[case]
    teacher = made(name)
    before = copy.deepcopy(teacher.state_dict())
    student = student_from_teacher(teacher, keep_blocks)
    assert type(student) is type(teacher) and len(anatomy(student).blocks) == len(kept)
    for here, there in zip(anatomy(student).blocks, (anatomy(teacher).blocks[index] for index in kept), strict=True):
        ours, theirs = student.get_submodule(here), teacher.get_submodule(there)
        assert all(a.equal(b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)), (here, there)
    batch = inputs_for(teacher)
    gone = [block for index, block in enumerate(anatomy(teacher).blocks) if index not in kept]
    with torch.no_grad():
        logits = student(**batch).logits
        if name not in ("xlm", "wav2vec2"):  # XLM's blocks are no modules; wav2vec2 here weighs each hidden state
            torch.testing.assert_close(logits, cut.passing_over(teacher, gone)(**batch).logits, rtol=0, atol=0)
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == student.state_dict().keys()
    assert all(value.equal(loaded.state_dict()[key]) for key, value in student.state_dict().items())
    with torch.no_grad():
        assert loaded(**batch).logits.equal(logits)
    assert all(value.equal(before[key]) for key, value in teacher.state_dict().items())


def test_blocks_spread_over_lists_are_passed_over_whole():
    teacher = made("xlm")
    student = student_from_teacher(teacher, [1, 3])
    shown = copy.deepcopy(teacher).transformer
    for key in ("attentions", "layer_norm1", "ffns", "layer_norm2"):
        stay = [getattr(shown, key)[index] for index in (1, 3)]
        setattr(shown, key, nn.ModuleList(stay))
    shown.n_layers = 2
    whole = copy.deepcopy(teacher)
    whole.transformer = shown
    batch = inputs_for(teacher)
    with torch.no_grad():
        assert whole(**batch).logits.equal(student(**batch).logits)


def test_the_sum_of_layers_of_wav2vec2_keeps_the_weights_of_those_that_stay():
    teacher = made("wav2vec2")
    student = student_from_teacher(teacher, [1])
    assert student.layer_weights.tolist() == [teacher.layer_weights[0].item(), teacher.layer_weights[2].item()]


def test_a_block_that_is_run_repeatedly_is_run_less_often(tmp_path):
    teacher = made("albert")
    for keep_blocks, repetitions in (("every_other", 3), (2, 2), ([0, 1, 2, 5], 4)):
        student = student_from_teacher(teacher, keep_blocks)
        assert student.config.num_hidden_layers == repetitions
        assert all(value.equal(teacher.state_dict()[key]) for key, value in student.state_dict().items())
    student.save_pretrained(tmp_path)
    batch = inputs_for(teacher)
    with torch.no_grad():
        assert type(student).from_pretrained(tmp_path)(**batch).logits.equal(student(**batch).logits)
        assert not student(**batch).logits.equal(teacher(**batch).logits)


def test_the_student_trains_apart_from_the_teacher_in_its_type_and_with_its_labels():
    teacher = cut.bert(id2label={0: "low", 1: "mid", 2: "high"}, label2id={"low": 0, "mid": 1, "high": 2}).bfloat16()
    teacher.requires_grad_(False).train()
    random = torch.random.get_rng_state()
    student = student_from_teacher(teacher, 2)
    assert random.equal(torch.random.get_rng_state())
    assert not student.training and teacher.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}
    assert student.config.id2label == {0: "low", 1: "mid", 2: "high"} and student.config.label2id["high"] == 2
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert all(value.equal(before[key]) for key, value in teacher.state_dict().items())


def test_without_a_copy_the_student_shares_the_memory_but_not_the_parameters():
    teacher = cut.bert().requires_grad_(False)
    student = student_from_teacher(teacher, [0], copy=False)
    ours, theirs = student.classifier.weight, teacher.classifier.weight
    assert ours.data_ptr() == theirs.data_ptr() and ours.requires_grad and not theirs.requires_grad


def test_layers_are_numbered_anew_so_that_a_decoder_finds_its_cache():
    torch.manual_seed(0)
    teacher = tiny_llama().eval()
    student = student_from_teacher(teacher, [1])
    assert student.model.layers[0].self_attn.layer_idx == 0
    ids = torch.arange(1, 7)[None]
    with torch.no_grad():
        whole = student.model(ids).last_hidden_state
        first = student.model(ids[:, :4], use_cache=True)
        rest = student.model(ids[:, 4:], past_key_values=first.past_key_values).last_hidden_state
    torch.testing.assert_close(torch.cat([first.last_hidden_state, rest], dim=1), whole)


def test_tied_weights_stay_tied():
    from transformers import BertForMaskedLM

    from tests.models import bert_config

    teacher = BertForMaskedLM(bert_config())
    student = student_from_teacher(teacher, [0, 2], head="cls.predictions.decoder")
    assert student.cls.predictions.decoder.weight is student.bert.embeddings.word_embeddings.weight


def test_the_attention_kernel_is_that_of_the_teacher():
    assert student_from_teacher(cut.bert(attn_implementation="eager"), 2).config._attn_implementation == "eager"


@pytest.mark.parametrize("wrap", [Source, Teacher], ids=["source", "teacher"])
def test_teachers_in_other_forms(wrap, tmp_path):
    teacher = made("resnet")
    expected = student_from_teacher(teacher, 4).state_dict()
    teacher.save_pretrained(tmp_path)
    for form in (wrap(teacher), wrap(str(tmp_path)), tmp_path, str(tmp_path)):
        student = student_from_teacher(form, 4)
        assert student.state_dict().keys() == expected.keys()
        counters = {key for key in expected if key.endswith("num_batches_tracked")}
        assert all(value.equal(expected[key]) for key, value in student.state_dict().items() if key not in counters)
        assert student.resnet.embedder.embedder.normalization.momentum == 0.1
        student.train()(torch.randn(2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"`copy=False` with .*would change the weights .* Leave it at True"):
        student_from_teacher(wrap(teacher), 4, copy=False)


def test_adapters_are_merged_into_the_copy():
    torch.manual_seed(0)
    teacher = lora(cut.bert(), ["query", "value"], "classifier", init_lora_weights=False)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = student_from_teacher(teacher, [0, 5])
    assert all(value.equal(before[key]) for key, value in teacher.state_dict().items())
    assert not hasattr(student, "peft_config")
    merged = copy.deepcopy(teacher).merge_and_unload().eval()
    blocks = anatomy(merged).blocks
    batch = inputs_for(merged)
    with torch.no_grad():
        torch.testing.assert_close(
            student(**batch).logits, cut.passing_over(merged, list(blocks[1:5]))(**batch).logits
        )


# -- architectures by the dozen, without weights

SAMPLE = {
    "DebertaV2ForTokenClassification": 12,
    "ElectraForSequenceClassification": 6,
    "Gemma3ForSequenceClassification": 19,  # two towers; one in six blocks attends to everything
    "JambaForSequenceClassification": 16,  # one in eight blocks attends, every other one has experts
    "MobileViTV2ForImageClassification": 8,  # the number of convolutional blocks is fixed
    "PvtForImageClassification": 4,
    "Qwen3ForSequenceClassification": 16,
    "WhisperForAudioClassification": 2,
    "BeitForImageClassification": 6,
    "CLIPForImageClassification": 6,  # the other tower has as many blocks
}


@pytest.mark.parametrize("name", SAMPLE)
def test_every_other_block_of_default_architectures(name):
    teacher = build(architecture(name))
    assert len(anatomy(student_from_teacher(teacher)).blocks) == SAMPLE[name]


# -- refusals


def test_no_field_for_the_number_of_blocks():
    with pytest.raises(
        ValueError, match=r"No field of MobileNetV2Config shortens `mobilenet_v2.layer`.*saved nor loaded"
    ):
        student_from_teacher(build(architecture("MobileNetV2ForImageClassification")))
    teacher = build(architecture("MobileViTV2ForImageClassification"))
    with pytest.raises(ValueError, match=r"No field of MobileViTV2Config .* Blocks that can go: 3 to 11\."):
        student_from_teacher(teacher, [0, 1, 3, 5, 9])


def test_a_block_in_whose_place_the_config_makes_another_kind():
    with pytest.raises(ValueError, match=r"depends on their place, and block 4 .* can go: 0 to 2, 4 to 6; or give a"):
        student_from_teacher(cut.resnet(), [0, 4])
    with pytest.raises(ValueError, match=r"block 1 would be number 0 of `swin.encoder.layers.0.blocks`"):
        student_from_teacher(cut.swin(), [1, 2, 3])


def test_blocks_that_depend_on_how_many_there_are():
    with pytest.raises(
        ValueError, match=r"`residual_scale` of the blocks .* depends on how many blocks `model.layers`"
    ):
        student_from_teacher(build(architecture("MiniCPM3ForSequenceClassification")), [0, 1])


def test_a_tensor_without_a_counterpart(monkeypatch):
    teacher = cut.bert()
    teacher.extra = nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=r"`extra.bias` of BertFor.* has no counterpart.*random numbers there. Keep all"
    ):
        student_from_teacher(teacher)


def test_teachers_that_no_student_can_be_cut_from():
    with pytest.raises(TypeError, match=r"Sequential is no model of transformers: .*Pass the bare model"):
        student_from_teacher(nn.Sequential(nn.Linear(2, 2)))
    teacher = cut.bert()
    teacher.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ValueError, match=r"is quantised: .*Load the teacher without `quantization_config`"):
        student_from_teacher(teacher)


def test_adapters_that_cannot_be_merged():
    from peft import PromptTuningConfig, get_peft_model

    teacher = get_peft_model(cut.bert(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(ValueError, match=r"adapters of BertFor.* cannot be merged into its weights.*Use LoRA"):
        student_from_teacher(teacher)


def test_anatomy_is_asked_for_a_head_that_cannot_be_told():
    teacher = build(architecture("DeiTForImageClassificationWithTeacher"))
    with pytest.raises(ValueError, match="several layers that could be its head"):
        student_from_teacher(teacher)
    student = student_from_teacher(teacher, head="cls_classifier")
    assert isinstance(anatomy(student, head="cls_classifier"), Anatomy) and student.config.num_hidden_layers == 6
