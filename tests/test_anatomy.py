"""`anatomy`: every architecture of transformers on the meta device, tiny real ones by execution, PEFT, errors."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CanineConfig,
    CanineForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    FunnelConfig,
    FunnelForTokenClassification,
    MobileNetV2Config,
    MobileNetV2Model,
    MobileViTConfig,
    MobileViTForImageClassification,
    PatchTSTConfig,
    PatchTSTForPrediction,
    PatchTSTForRegression,
    PvtConfig,
    PvtForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    XLMConfig,
    XLMForSequenceClassification,
)

from hf_transfer.anatomy import Anatomy, anatomy

from .architectures import ARCHITECTURES, UNBUILDABLE, Architecture, architecture, build
from .models import TINY, batch_for, lora, tiny_bert, tiny_causal_llama, tiny_resnet, tiny_token_bert, tiny_vit


# -- every architecture

# Heads that have to be named, and why
NAMED_HEADS = {
    "DeiTForImageClassificationWithTeacher": "cls_classifier",  # two heads, of class and of distillation token
    "LevitForImageClassificationWithTeacher": "classifier.linear",  # two heads, their logits are averaged
    "SwiftFormerForImageClassification": "head",  # two heads, their logits are averaged
    "TimesFm2_5ModelForPrediction": "output_projection_point",  # a point forecast beside the quantiles
    "ShieldGemma2ForImageClassification": "model.lm_head",  # labels are the words yes and no of a language model
}
TIED_HEADS = {"ShieldGemma2ForImageClassification"}  # the matrix is that of the token embeddings, counted there

# Numbers of blocks that no field of the configuration gives
BLOCKS = {
    "albert": 1,  # one layer, run `num_hidden_layers` times
    "mobilenet_v1": 26,  # 13 pairs of a depthwise and a pointwise layer, in one flat list
    "mobilenet_v2": 16,  # the 17 inverted residuals of the paper, the first of which is in the stem
    "mobilevit": 4 + 2 + 4 + 3,  # inverted residuals of stages 1 and 2, transformer layers of stages 3 to 5
    "mobilevitv2": 3 + 2 + 4 + 3,  # the same; stages 1 and 2 hold 3
    "levit": 2 * (4 + 4 + 4) + 2 * 2,  # a residual layer is half a block of `depths`; two for each of two subsamplings
}
# Models that use only one of the towers that their configuration describes
ONLY_ENCODER = {
    "MT5ForTokenClassification",
    "T5ForTokenClassification",
    "UMT5ForTokenClassification",
    "WhisperForAudioClassification",
}
ONLY_VISION = {"clip", "metaclip_2", "siglip", "siglip2"}


def expected_blocks(one: Architecture, settings: dict[str, Any]) -> int:
    """The number of blocks that the configuration announces."""
    if one.model_type in BLOCKS:
        return BLOCKS[one.model_type]
    if one.model_type in ONLY_VISION:
        return settings["vision_config"]["num_hidden_layers"]
    if one.model_type == "efficientnet":
        return sum(math.ceil(settings["depth_coefficient"] * times) for times in settings["num_block_repeats"])
    if one.model_type == "funnel":
        decoder = settings["num_decoder_layers"] if one.class_name == "FunnelForTokenClassification" else 0
        return sum(settings["block_sizes"]) + decoder
    if one.model_type == "canine":
        return settings["num_hidden_layers"] + 2  # one local layer before and one after
    if one.model_type == "perceiver":
        return settings["num_self_attends_per_block"]
    towers = [
        settings[key]
        for key in ("encoder", "decoder", "vision_config", "text_config", "audio_config")
        if isinstance(settings.get(key), dict)
    ]
    if towers:
        return sum(expected_blocks(one, tower) for tower in towers)
    if "encoder_layers" in settings or "num_decoder_layers" in settings:
        encoder = settings["encoder_layers"] if "encoder_layers" in settings else settings["num_layers"]
        decoder = settings.get("decoder_layers", settings.get("num_decoder_layers", 0))
        return encoder + (0 if one.class_name in ONLY_ENCODER else decoder)
    if "stage_num_blocks" in settings:
        return sum(settings["stage_num_blocks"])
    for depths in ("depths", "depth"):
        if depths in settings:
            return settings[depths] if isinstance(settings[depths], int) else sum(settings[depths])
    return next(settings[key] for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in settings)


def check_partition(model: nn.Module, found: Anatomy) -> None:
    """Each parameter is in one part; the modules of a part own it, and every buffer."""
    parts, part_of = found.parts(), found.part_of()
    assert list(parts) == ["embeddings", *(f"block.{i}" for i in range(len(found.blocks))), "neck", "head"]
    listed = [name for names in parts.values() for name in names]
    parameters = [name for name, _ in model.named_parameters()]
    assert sorted(listed) == sorted(parameters)
    assert len(part_of) == len(parameters)
    owners = {name: part for part in parts for name in found.modules(part)}
    assert len(owners) == sum(len(found.modules(part)) for part in parts)

    def owning(name: str) -> list[str]:
        levels = name.split(".")
        return [owners[above] for i in range(len(levels)) if (above := ".".join(levels[:i])) in owners]

    for name in parameters:
        assert owning(name) in ([part_of[name]], [])
    for name, _ in model.named_buffers():  # such as the statistics of BatchNorm; constants may stand above the blocks
        above_blocks = any(block.startswith(name.rpartition(".")[0]) for block in found.blocks)
        assert len(owning(name)) == 1 or (above_blocks and not owning(name)), name


class Coverage:
    """What became of each architecture in this run."""

    def __init__(self) -> None:
        self.covered: list[str] = []
        self.unbuilt: dict[str, str] = {}

    def __str__(self) -> str:
        line = f"anatomy covers {len(self.covered)} of {len(ARCHITECTURES)} architectures of transformers "
        line += (
            f"{transformers.__version__}; {len(NAMED_HEADS)} of them with their head named: {', '.join(NAMED_HEADS)}"
        )
        unbuilt = "".join(f"\n  not buildable: {name}: {reason}" for name, reason in self.unbuilt.items())
        return line + unbuilt


@pytest.fixture(scope="module")
def coverage(request: pytest.FixtureRequest) -> Iterator[Coverage]:
    coverage = Coverage()
    yield coverage
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if capture is not None and coverage.covered:
        with capture.global_and_fixture_disabled():
            print(f"\n{coverage}")


@pytest.mark.parametrize("one", ARCHITECTURES, ids=lambda one: one.id)
def test_every_architecture(one: Architecture, coverage: Coverage) -> None:
    try:
        model = build(one)
    except Exception as error:
        coverage.unbuilt[one.class_name] = UNBUILDABLE.get(one.class_name, f"{type(error).__name__}: {error}")
        known = one.class_name in UNBUILDABLE or not transformers.__version__.startswith("5.23")
        assert known, f"{one.class_name} no longer builds"
        pytest.skip(f"transformers cannot build it: {coverage.unbuilt[one.class_name]}")
    found = anatomy(model, head=NAMED_HEADS.get(one.class_name))
    parts = found.parts()

    assert len(found.blocks) == expected_blocks(one, model.config.to_dict())
    check_partition(model, found)
    empty = {part for part, names in parts.items() if not names} - {"neck"}
    assert empty == ({"head"} if one.class_name in TIED_HEADS else set())
    assert found.embeddings

    head = model.get_submodule(found.head)
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert found.feature_dim == layers[0].weight.shape[1]
    if "PREDICTION" not in one.task and one.class_name not in TIED_HEADS:
        labels = model.config.num_targets if "TIME_SERIES" in one.task else model.config.num_labels
        assert isinstance(head, nn.Linear)
        assert head.out_features == labels
    coverage.covered.append(one.id)


def test_all_architectures_are_covered(coverage: Coverage) -> None:
    seen = len(coverage.covered) + len(coverage.unbuilt)
    if seen < len(ARCHITECTURES):
        pytest.skip("only a part of the architectures ran in this process")
    assert len(coverage.covered) >= 0.9 * len(ARCHITECTURES)


@pytest.mark.parametrize("name", sorted(set(NAMED_HEADS) - TIED_HEADS))
def test_several_heads_are_an_error_that_lists_them_and_both_are_the_head_once_one_is_named(name: str) -> None:
    model = build(architecture(name))
    with pytest.raises(ValueError, match=rf'several layers that could be its head: {NAMED_HEADS[name]}, .*head="'):
        anatomy(model)
    found = anatomy(model, head=NAMED_HEADS[name])
    assert len(found.modules("head")) == 2
    assert found.modules("head")[0] == found.head


# -- parts, by name


def parts_of(name: str, **config: Any) -> tuple[Anatomy, dict[str, str]]:
    found = anatomy(build(architecture(name), **config))
    return found, {module: part for part in found.parts() for module in found.modules(part)}


def test_patch_merging_belongs_to_the_block_that_follows() -> None:
    _, part = parts_of("SwinForImageClassification")
    assert part["swin.encoder.layers.0.downsample"] == part["swin.encoder.layers.1.blocks.0"] == "block.2"
    _, part = parts_of("ConvNextForImageClassification", depths=[2, 2, 2, 2])  # as long as its downsampling is deep
    assert part["convnext.encoder.stages.1.downsampling_layer"] == "block.2"
    _, part = parts_of("PvtForImageClassification")
    assert part["pvt.encoder.patch_embeddings.0"] == "embeddings"
    assert part["pvt.encoder.patch_embeddings.1"] == part["pvt.encoder.block.1.0"] == "block.2"


def test_a_block_spread_over_lists() -> None:
    found, part = parts_of("XLMForSequenceClassification")
    assert found.blocks[3] == "transformer.attentions.3"
    siblings = [f"transformer.{name}.3" for name in ("attentions", "layer_norm1", "ffns", "layer_norm2")]
    assert found.modules("block.3") == siblings
    assert {part[name] for name in siblings} == {"block.3"}


def test_encoder_decoder() -> None:
    found, part = parts_of("BartForSequenceClassification")
    assert found.blocks[0] == "model.encoder.layers.0"
    assert found.blocks[-1] == "model.decoder.layers.11"
    assert part["model.decoder.embed_positions"] == part["model.encoder.layernorm_embedding"] == "embeddings"
    assert part["classification_head.dense"] == "neck"
    _, part = parts_of("T5ForSequenceClassification")
    assert part["transformer.encoder.final_layer_norm"] == "block.6"
    assert part["transformer.decoder.final_layer_norm"] == "neck"


def test_towers_that_read_pixels_or_sound_run_before_those_that_read_tokens() -> None:
    found, part = parts_of("T5Gemma2ForSequenceClassification")  # registered in the other order
    assert found.blocks[0].startswith("model.encoder.vision_tower")
    assert found.blocks[12] == "model.encoder.text_model.layers.0"
    assert part["model.encoder.multi_modal_projector"] == "block.12"
    _, part = parts_of("Qwen3ASRForTokenClassification")
    assert part["model.audio_tower.conv2d1"] == "embeddings"


@pytest.mark.parametrize(
    ("name", "module", "part"),
    [
        ("CamembertForSequenceClassification", "classifier.dense", "neck"),  # registered before the base model
        ("GteForSequenceClassification", "gte.pooler", "neck"),  # registered before the blocks
        ("OPTForSequenceClassification", "model.decoder.final_layer_norm", "neck"),
        ("BigBirdPegasusForSequenceClassification", "model.decoder.layernorm_embedding", "neck"),  # a final norm
        ("LayoutLMv3ForSequenceClassification", "layoutlmv3.encoder.rel_pos_bias", "embeddings"),
        ("CanineForSequenceClassification", "canine.chars_to_molecules", "block.1"),
        ("HubertForSequenceClassification", "hubert.feature_extractor", "embeddings"),  # a list of convolutions
        ("MobileNetV2ForImageClassification", "mobilenet_v2.conv_1x1", "neck"),
        ("PatchTSMixerForTimeSeriesClassification", "inject_scale", "neck"),
    ],
)
def test_part_of_a_module(name: str, module: str, part: str) -> None:
    assert parts_of(name)[1][module] == part


def test_parameters_that_stand_alone() -> None:
    model = build(architecture("Wav2Vec2ForSequenceClassification"), use_weighted_layer_sum=True)
    part_of = anatomy(model).part_of()
    assert part_of["layer_weights"] == "neck"
    assert part_of["wav2vec2.masked_spec_embed"] == "embeddings"
    assert part_of["wav2vec2.encoder.layer_norm.weight"] == "embeddings"
    stable = build(architecture("Wav2Vec2ForSequenceClassification"), do_stable_layer_norm=True)
    assert anatomy(stable).part_of()["wav2vec2.encoder.layer_norm.weight"] == "neck"


def test_tied_parameters_are_counted_once() -> None:
    model = tiny_bart()
    parts = anatomy(model).parts()
    names = [
        name for names in parts.values() for name in names if name.endswith(("embed_tokens.weight", "shared.weight"))
    ]
    assert names == ["model.shared.weight"]
    model = build(architecture("Zamba2ForSequenceClassification"))  # hybrid layers share a transformer
    check_partition(model, anatomy(model))


def test_a_distribution_is_one_head() -> None:
    options = {
        "loss": "nll",
        "num_hidden_layers": 1,
        "d_model": 8,
        "ffn_dim": 8,
        "context_length": 4,
        "num_attention_heads": 2,
    }
    for kind in (PatchTSTForPrediction, PatchTSTForRegression):
        model = kind(PatchTSTConfig(**options))
        found = anatomy(model)
        assert found.head == "head.projection"
        assert type(model.get_submodule(found.head)).__name__ == "ParameterProjection"
        assert found.feature_dim == 8


def test_a_width_that_equals_the_number_of_labels_is_no_head() -> None:
    roberta = tiny_roberta(num_labels=8)  # dense and out_proj both have 8 outputs
    assert anatomy(roberta).head == "classifier.out_proj"
    resnet = TINY["resnet"]()
    resnet.config.num_labels = 8  # as many as the stem has channels
    resnet.classifier[1] = nn.Linear(16, 8)
    assert anatomy(resnet).head == "classifier.1"


def test_the_fields_are_read_only_and_parts_are_copies() -> None:
    found = anatomy(tiny_bert())
    with pytest.raises(AttributeError):
        found.head = "other"  # type: ignore[misc]
    found.parts()["head"].clear()
    found.modules("head").clear()
    assert found.parts()["head"] == ["classifier.weight", "classifier.bias"]
    assert found.modules("head") == ["classifier"]
    assert found == anatomy(tiny_bert())
    assert "_parts" not in repr(found)


def test_it_is_fast() -> None:
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(BertConfig())
    times = []
    for _ in range(5):
        start = time.perf_counter()
        anatomy(model)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05  # 4 ms measured


# -- tiny models that run


def tiny_roberta(**options: Any) -> RobertaForSequenceClassification:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return RobertaForSequenceClassification(RobertaConfig(vocab_size=50, **{**sizes, **options}))


def tiny_distilbert() -> nn.Module:
    config = DistilBertConfig(vocab_size=50, dim=8, n_layers=2, n_heads=2, hidden_dim=16)
    return DistilBertForSequenceClassification(config)


def tiny_albert() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    return AlbertForSequenceClassification(AlbertConfig(vocab_size=50, embedding_size=8, **sizes))


def tiny_xlm() -> nn.Module:
    return XLMForSequenceClassification(XLMConfig(vocab_size=50, emb_dim=8, n_layers=3, n_heads=2))


def tiny_funnel() -> nn.Module:
    config = FunnelConfig(vocab_size=50, block_sizes=[1, 2], d_model=8, n_head=2, d_head=4, d_inner=16)
    return FunnelForTokenClassification(config)


def tiny_canine() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return CanineForSequenceClassification(CanineConfig(num_hash_buckets=128, **sizes))


def tiny_bart() -> nn.Module:
    sizes = {"layers": 2, "attention_heads": 2, "ffn_dim": 16}
    both = {f"{side}_{key}": size for side in ("encoder", "decoder") for key, size in sizes.items()}
    return BartForSequenceClassification(
        BartConfig(vocab_size=50, d_model=8, max_position_embeddings=16, eos_token_id=2, **both)
    )


def tiny_t5() -> nn.Module:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 2}
    return T5ForSequenceClassification(T5Config(vocab_size=50, eos_token_id=2, decoder_start_token_id=0, **sizes))


def tiny_swin() -> nn.Module:
    config = SwinConfig(image_size=64, embed_dim=8, depths=[1, 2, 1], num_heads=[2, 2, 2], window_size=4)
    return SwinForImageClassification(config)


def tiny_convnext() -> nn.Module:
    return ConvNextForImageClassification(ConvNextConfig(depths=[1, 2, 1, 1], hidden_sizes=[8, 8, 16, 16]))


def tiny_pvt() -> nn.Module:
    config = PvtConfig(
        image_size=64,
        depths=[1, 2, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        mlp_ratios=[2, 2, 2, 2],
    )
    return PvtForImageClassification(config)


def tiny_mobilevit() -> nn.Module:
    config = MobileViTConfig(image_size=64, hidden_sizes=[16, 16, 24], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16])
    return MobileViTForImageClassification(config)


RUNNING = {
    **TINY,
    "roberta": tiny_roberta,
    "distilbert": tiny_distilbert,
    "albert": tiny_albert,
    "xlm": tiny_xlm,
    "funnel": tiny_funnel,
    "canine": tiny_canine,
    "bart": tiny_bart,
    "t5": tiny_t5,
    "swin": tiny_swin,
    "convnext": tiny_convnext,
    "pvt": tiny_pvt,
    "mobilevit": tiny_mobilevit,
}


def inputs_of(name: str, model: nn.Module) -> dict[str, Tensor]:
    if name in TINY:
        return {key: value for key, value in batch_for(model).items() if key not in ("labels", "domain")}
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 64, 64)}
    ids = torch.randint(4, 50, (2, 128 if name == "canine" else 8))
    ids[:, -1] = 2  # the encoder-decoders pool at the end-of-sequence token
    return {"input_ids": ids}


@pytest.mark.parametrize("name", RUNNING)
def test_the_blocks_are_listed_in_the_order_in_which_they_run(name: str) -> None:
    model = RUNNING[name]().eval()
    found = anatomy(model)
    ran: list[str] = []
    for part in found.parts():
        for module in found.modules(part):
            model.get_submodule(module).register_forward_pre_hook(lambda *_, part=part: ran.append(part))
    with torch.no_grad():
        model(**inputs_of(name, model))
    order = list(dict.fromkeys(part for part in ran if part.startswith("block")))
    assert order == [f"block.{number}" for number in range(len(found.blocks))]
    assert ran[0] == "embeddings"
    assert ran[-1] == "head"
    if name != "canine":  # its pooler reads the tower in the middle
        assert "neck" not in ran[: ran.index(order[-1])]


@pytest.mark.parametrize("name", RUNNING)
def test_the_head_turns_the_features_into_the_logits(name: str) -> None:
    model = RUNNING[name]().eval()
    found = anatomy(model)
    head = model.get_submodule(found.head)
    tapped: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: tapped.append(args[0]))
    with torch.no_grad():
        logits = model(**inputs_of(name, model)).logits
        handle.remove()
        again = head(tapped[0])
    assert len(tapped) == 1
    assert tapped[0].shape[-1] == found.feature_dim
    if again.dim() > logits.dim():  # decoders pool after the head: at one token of each row
        again = torch.stack([row[(row - of).abs().sum(-1).argmin()] for row, of in zip(again, logits, strict=True)])
    torch.testing.assert_close(again, logits)


# -- PEFT

UNDER_LORA = [
    "ASTForAudioClassification",
    "BertForSequenceClassification",
    "BloomForTokenClassification",
    "DebertaV2ForSequenceClassification",
    "DistilBertForSequenceClassification",
    "LlamaForSequenceClassification",
    "MobileNetV2ForImageClassification",
    "PvtForImageClassification",
    "ResNetForImageClassification",
    "RobertaForSequenceClassification",
    "SwinForImageClassification",
    "T5ForSequenceClassification",
    "ViTForImageClassification",
    "Wav2Vec2ForSequenceClassification",
    "XLMForSequenceClassification",
]
WRAPPED = "base_model.model."


def targets(model: nn.Module, found: Anatomy) -> list[str]:
    """The linear layers and convolutions of the first and the last block."""
    modules = [name for part in ("block.0", f"block.{len(found.blocks) - 1}") for name in found.modules(part)]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if any(f"{name}.".startswith(f"{above}.") for above in modules)
    ]


@pytest.mark.parametrize("name", UNDER_LORA)
@pytest.mark.parametrize("tuned", ["saved", "targeted"])
def test_under_lora(name: str, tuned: str) -> None:
    model = build(architecture(name))
    bare = anatomy(model)
    container = bare.head.split(".")[0]  # `classifier`, whether it is a layer or a head of several
    with torch.device("meta"):
        wrapped = (
            lora(model, targets(model, bare), head=container)
            if tuned == "saved"
            else lora(model, [*targets(model, bare), bare.head])
        )
    found = anatomy(wrapped)
    assert found.blocks == tuple(WRAPPED + block for block in bare.blocks)
    assert found.embeddings == tuple(WRAPPED + module for module in bare.embeddings)
    assert found.feature_dim == bare.feature_dim
    copy = "" if container == bare.head else ".modules_to_save.default"
    inside = bare.head.removeprefix(container)
    assert found.head == WRAPPED + (container + copy + inside if tuned == "saved" else bare.head)

    part_of, before = found.part_of(), bare.part_of()
    assert set(part_of) == {name for name, _ in wrapped.named_parameters()}
    counts = Counter(part_of.values())
    for name, part in before.items():
        plain = [key for key in part_of if unwrapped(key) == name]
        assert plain, name
        assert {part_of[key] for key in plain} == {part}
    adapters = {name: part for name, part in part_of.items() if ".lora_" in name}
    ends = {"block.0", f"block.{len(bare.blocks) - 1}"}
    assert set(adapters.values()) == (ends if tuned == "saved" else ends | {"head"})
    assert counts["head"] == 2 * len(bare.parts()["head"]) if tuned == "saved" else counts["head"] > 2


def unwrapped(name: str) -> str:
    """The name of a wrapped parameter in the bare model, written without the module under test."""
    levels = name.removeprefix(WRAPPED).split(".")
    while "modules_to_save" in levels:
        place = levels.index("modules_to_save")
        del levels[place : place + 2]
    return ".".join(level for level in levels if level not in ("base_layer", "original_module"))


def test_the_tap_under_peft_sees_the_features_of_the_active_copy() -> None:
    for make in (tiny_bert, tiny_roberta):  # a lone layer, a head of several
        wrapped = lora(make().eval(), ["query"], head="classifier")
        found = anatomy(wrapped)
        seen: list[Tensor] = []
        wrapped.get_submodule(found.head).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        wrapped(input_ids=torch.randint(4, 50, (2, 8)))
        assert len(seen) == 1
        assert seen[0].shape == (2, found.feature_dim)


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT says so of every LayerNorm that it tunes
def test_other_adapters() -> None:
    peft = pytest.importorskip("peft")
    bare = anatomy(tiny_bert())
    configs = [
        peft.IA3Config(target_modules=["query", "output.dense"], feedforward_modules=["output.dense"]),
        peft.LNTuningConfig(target_modules=["LayerNorm"]),
        peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
        peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
    ]
    for config in configs:
        wrapped = peft.get_peft_model(tiny_bert(), config)
        found = anatomy(wrapped)
        assert len(found.blocks) == len(bare.blocks), type(config)
        assert all(block.endswith(plain) for block, plain in zip(found.blocks, bare.blocks, strict=True))
        assert found.head.endswith("classifier")
        part_of = found.part_of()
        assert set(part_of) == {name for name, _ in wrapped.named_parameters()}
        assert {part for name, part in part_of.items() if name.startswith("prompt_encoder")} <= {"embeddings"}
        if config.peft_type == "LN_TUNING":
            tuned = [name for name in part_of if "ln_tuning_layers" in name and "layer.2" in name]
            assert tuned and {part_of[name] for name in tuned} == {"block.2"}


def test_two_adapters_and_the_active_copy_of_the_head() -> None:
    from peft import LoraConfig

    wrapped: Any = lora(tiny_roberta(), ["query"], head="classifier")
    wrapped.add_adapter("second", LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"]))
    assert anatomy(wrapped).head.endswith("modules_to_save.default.out_proj")
    wrapped.set_adapter("second")
    found = anatomy(wrapped)
    assert found.head.endswith("modules_to_save.second.out_proj")
    copies = [name for name in found.parts()["head"] if name.endswith("out_proj.weight")]
    assert len(copies) == 3  # the original and a copy per adapter


# -- wrappers, attached objectives, plain modules


def test_wrapped_models_are_found_under_their_prefix() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = tiny_vit()

    found, bare = anatomy(Outer()), anatomy(tiny_vit())
    assert found.head == f"module.{bare.head}"
    assert found.blocks == tuple(f"module.{name}" for name in bare.blocks)


def test_attached_objectives_are_left_out() -> None:
    model = tiny_bert()
    bare = anatomy(model)
    twin = nn.Linear(16, model.config.num_labels)  # would be a second head
    stack = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(3))
    model.add_module("transfer_objectives", nn.ModuleDict({"head": twin, "stack": stack}))
    found = anatomy(model)
    assert found == bare
    assert found.parts() == bare.parts()
    with pytest.raises(ValueError, match="is no module of the model"):
        anatomy(model, head="transfer_objectives.head")


class Plain(nn.Module):
    """A model that is not of transformers: no configuration, blocks in sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(4))
        self.stem = nn.Linear(4, 4)
        self.layer1 = nn.Sequential(self.block(), self.block())
        self.transition = nn.Linear(4, 4)
        self.layer2 = nn.Sequential(self.block(), self.block(), self.block())
        self.norm = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 5)

    @staticmethod
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def test_any_module_with_its_head_named() -> None:
    model = Plain()
    found = anatomy(model, head="fc")
    assert found.blocks == ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2")
    assert found.modules("block.2") == ["transition", "layer2.0"]
    assert found.parts()["embeddings"] == ["cls_token", "stem.weight", "stem.bias"]
    assert found.modules("neck") == ["norm"]
    check_partition(model, found)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("layer1", ["layer1.0", "layer1.1"]),
        (["layer1.1", "layer2"], ["layer1.1", "layer2"]),  # a sequence among several names is itself a block
        (["layer2.2", "layer2.0"], ["layer2.2", "layer2.0"]),  # in the order given
    ],
)
def test_given_blocks(blocks: str | list[str], expected: list[str]) -> None:
    model = Plain()
    found = anatomy(model, head="fc", blocks=blocks)
    assert list(found.blocks) == expected
    assert [found.modules(f"block.{i}")[-1] for i in range(len(expected))] == expected
    check_partition(model, found)


def test_given_stages_as_blocks() -> None:
    model = tiny_resnet()
    found = anatomy(model, blocks="resnet.encoder.stages")
    assert found.blocks == ("resnet.encoder.stages.0", "resnet.encoder.stages.1")
    check_partition(model, found)


# -- errors


def test_a_base_model_has_no_head() -> None:
    bert = BertModel(tiny_bert().config)
    with pytest.raises(ValueError, match=r"BertModel has no layer with 3 outputs.*AutoModelFor\.\.\.Classification"):
        anatomy(bert)
    mobilenet = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25, num_labels=7))
    with pytest.raises(ValueError, match=r"MobileNetV2Model has no layer with 7 outputs.*head=\.\.\."):
        anatomy(mobilenet)
    assert anatomy(bert, head="pooler.dense").parts()["neck"] == []


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("wrapped", [None, "LoRA", "LoRA on the head", "trained head"])
def test_the_head_of_a_causal_language_model_is_its_output_layer(wrapped: str | None, tied: bool) -> None:
    model = tiny_causal_llama(tie_word_embeddings=tied)
    prefix = ""
    if wrapped is not None:
        if tied and wrapped != "LoRA":
            pytest.skip("PEFT unties them with a warning")
        targets = ["q_proj", "lm_head"] if wrapped == "LoRA on the head" else ["q_proj"]
        model = lora(model, targets, head="lm_head" if wrapped == "trained head" else None)
        prefix = "base_model.model."
    found = anatomy(model)
    check_partition(model, found)
    assert (found.head, found.feature_dim) == (f"{prefix}lm_head", 16)
    assert found.blocks == (f"{prefix}model.layers.0", f"{prefix}model.layers.1")
    assert found.parts()["neck"] == [f"{prefix}model.norm.weight"]
    if tied:  # the matrix belongs to the part in which the model lists it
        assert found.parts()["head"] == [] and found.part_of()[f"{prefix}model.embed_tokens.weight"] == "embeddings"
    else:
        assert found.parts()["head"][0].startswith(f"{prefix}lm_head")


def test_the_head_of_other_language_models() -> None:
    masked = BertForMaskedLM(tiny_bert().config)
    found = anatomy(masked)
    check_partition(masked, found)
    assert found.head == "cls.predictions.decoder"
    assert "cls.predictions.transform" in found.modules("neck")
    assert anatomy(masked, head="cls.predictions.transform.dense").head == "cls.predictions.transform.dense"
    config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    assert anatomy(T5ForConditionalGeneration(config)).head == "lm_head"


def test_a_token_classifier_with_as_many_classes_as_tokens_is_none() -> None:
    model = tiny_token_bert(num_labels=50)
    assert anatomy(model).head == "classifier"


def test_a_model_without_blocks() -> None:
    with pytest.raises(ValueError, match=r"Sequential has no list of repeated blocks.*blocks="):
        anatomy(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), head="1")


def test_names_that_are_no_modules() -> None:
    model = tiny_bert()
    with pytest.raises(ValueError, match=r'head="clasifier" is no module.*near it are classifier.*named_modules'):
        anatomy(model, head="clasifier")
    with pytest.raises(ValueError, match=r'blocks="layer" is no module.*near it are bert\.encoder\.layer;'):
        anatomy(model, blocks="layer")
    with pytest.raises(ValueError, match=r"near it are base_model\.model\.classifier"):
        anatomy(lora(tiny_bert(), ["query"]), head="classifier")
    with pytest.raises(ValueError, match='head="" is no module'):
        anatomy(model, head="")


def test_blocks_and_heads_inside_each_other() -> None:
    model = tiny_bert()
    with pytest.raises(ValueError, match=r"lie inside each other; a parameter belongs to one part"):
        anatomy(model, head="bert.encoder.layer.1.output.dense")
    with pytest.raises(ValueError, match=r"head `bert` and the block `bert\.encoder\.layer\.0` lie inside"):
        anatomy(model, head="bert")
    with pytest.raises(ValueError, match=r"lies inside block `bert\.encoder\.layer\.1`"):
        anatomy(model, blocks=["bert.encoder.layer.1", "bert.encoder.layer.1.attention"])
    with pytest.raises(ValueError, match=r"`bert\.encoder\.layer\.1` is given twice"):
        anatomy(model, blocks=["bert.encoder.layer", "bert.encoder.layer.1"])


def test_a_head_without_a_width() -> None:
    with pytest.raises(ValueError, match=r"`dropout` \(Dropout\) holds no linear layer.*width of the features"):
        anatomy(tiny_bert(), head="dropout")


def test_a_part_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r'no part `block\.3`.*"block\.0" to "block\.2"'):
        anatomy(tiny_bert()).modules("block.3")
