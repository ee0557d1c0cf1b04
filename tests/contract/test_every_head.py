"""`attach` on every classifier of transformers: what an objective sees is what the head turns into the logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_transfer import Objective, TransferBatch, attach
from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.tap import HeadTap
from tests.architectures import ARCHITECTURES, Architecture, architecture
from tests.test_anatomy import NAMED_HEADS


CLASSIFIERS = [one for one in ARCHITECTURES if not one.task.startswith("TIME_SERIES")]
VOCABULARY, TOKENS, NUM_LABELS, PIXELS = 64, 16, 3, 64

# What does not run, and the missing library that is the reason
NOT_RUN = {
    "DinatForImageClassification": "natten",
    "LayoutLMv2ForSequenceClassification": "detectron2",
    "LayoutLMv2ForTokenClassification": "detectron2",
    "TimmWrapperForImageClassification": "timm",
}
# Classes that return no loss, so that nothing can be attached to them; their heads are tapped all the same
WITHOUT_LOSS = {
    "DeiTForImageClassificationWithTeacher",
    "LevitForImageClassificationWithTeacher",
    "PPLCNetForImageClassification",
    "ShieldGemma2ForImageClassification",
}


# -- small models

# A field of a default configuration that has one of these names and a larger value gets this one
SMALL: dict[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "d_ff", "ffn_dim", "d_inner", "dff"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "feed_forward_size", "entity_vocab_size"), 32),
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 8),
    "num_experts_per_tok": 2,
    "vocab_size": VOCABULARY,
    "image_size": PIXELS,
}
SPECIAL_TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}  # likewise, if outside the vocabulary
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
CONVNEXT = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
LATENT_ATTENTION = {"head_dim": 64}  # that of the rotary part, which has a field of its own
LAYER_KINDS = {"layer_types": ["linear_attention", "full_attention"]}
BLOCK_KINDS = {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3}
FULL_ATTENTION = {"attention_type": "original_full"}  # what they change to at their first short batch
HEAD_DIM = {"head_dim": 8}
# What the rules above get wrong or leave slow, by model type
SPECIAL: dict[str, dict[str, Any]] = {
    # image
    "bit": {"hidden_sizes": [128] * 4, "depths": [1] * 4},
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT,
    "cvt": {"embed_dim": [8, 16, 32], "depth": [1, 2, 3], "num_heads": [1, 2, 4]},
    "donut-swin": SWIN,
    "efficientnet": {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256, "initializer_range": 1.0},
    "focalnet": {"embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "image_size": [PIXELS, PIXELS]},
    "mobilenet_v1": {"classifier_dropout_prob": 0.1},  # for 0.999, which leaves nothing
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    "pvt": {"hidden_sizes": [8, 16, 40, 64], "depths": [1] * 4},
    "regnet": {"hidden_sizes": [64, 64, 128, 128], "depths": [1] * 4},
    "resnet": {"hidden_sizes": [32] * 4, "depths": [1] * 4},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {"image_size": [PIXELS, PIXELS]},
    # text
    "axk1": {**LATENT_ATTENTION, "n_routed_experts": 16},  # in 8 groups, of each of which 2 are taken
    "big_bird": FULL_ATTENTION,
    "bigbird_pegasus": FULL_ATTENTION,
    "bros": {"hidden_size": 64},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v3": LATENT_ATTENTION,
    "esm": {"vocab_size": VOCABULARY},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "hunyuan_v1_dense": HEAD_DIM,
    "hunyuan_v1_moe": HEAD_DIM,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lilt": {"hidden_size": 48},
    "ministral": HEAD_DIM,
    "mistral4": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 4},
    "qwen3_5": {"text_config": LAYER_KINDS},
    "qwen3_5_text": LAYER_KINDS,
    "qwen3_next": LAYER_KINDS,
    "reformer": {
        "attention_head_size": 8,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [4, TOKENS // 4],
        "axial_pos_embds_dim": [8, 24],
        # it draws the seed of its dropout anew in each forward
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
    },
    "roc_bert": {"shape_vocab_size": VOCABULARY, "pronunciation_vocab_size": VOCABULARY},
    "shieldgemma2": {"yes_token_index": 5, "no_token_index": 6},
    "t5": {"decoder_start_token_id": 0},
    "zamba": BLOCK_KINDS,
    "zamba2": BLOCK_KINDS,
    # audio
    "audio-spectrogram-transformer": {"max_length": 64, "num_mel_bins": 32},
    "whisper": {"max_source_positions": 32},
}
ONE_HEAD = {"num_cross_attention_heads": 1, "num_self_attention_heads": 1}
# By class; these two take images of 224 pixels only
SPECIAL_CLASSES: dict[str, dict[str, Any]] = {
    "PerceiverForImageClassificationConvProcessing": ONE_HEAD,
    "PerceiverForImageClassificationFourier": ONE_HEAD,
}


def small_settings(config: PreTrainedConfig, special: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the class of a default configuration with which its models run in milliseconds."""
    settings: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        inner = getattr(config, key, None)
        if isinstance(inner, PreTrainedConfig):
            settings[key] = small_settings(inner, special.get(key, {}))
        elif key in SMALL and type(value) is int and value > SMALL[key]:
            settings[key] = SMALL[key]
        elif key in SPECIAL_TOKENS and type(value) is int and value >= VOCABULARY:
            settings[key] = SPECIAL_TOKENS[key]
    return {**settings, **{key: value for key, value in special.items() if not isinstance(settings.get(key), dict)}}


def small_model(one: Architecture, **options: Any) -> PreTrainedModel:
    """The architecture with random weights, on the CPU, training; decoders pad with token 0 if with nothing else."""
    kind: Any = CONFIG_MAPPING[one.model_type]
    special = {**SPECIAL.get(one.model_type, {}), **SPECIAL_CLASSES.get(one.class_name, {}), **options}
    config = kind(**small_settings(kind(), special), num_labels=NUM_LABELS)
    text: Any = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = 0
    model = getattr(transformers, one.class_name)(config).train()
    if hasattr(model, "set_default_language"):
        model.set_default_language("en_XX")
    return model


# -- batches


def text_batch(config: PreTrainedConfig, name: str, sides: tuple[str, ...]) -> dict[str, Tensor]:
    """One row for each side at which to pad."""
    text: Any = config.get_text_config()
    ids = torch.randint(8, VOCABULARY, (len(sides), TOKENS))
    mask = torch.ones_like(ids)
    for row, side in enumerate(sides):
        if isinstance(end := getattr(text, "eos_token_id", None), int):  # BART's family pools at it
            ids[row, TOKENS - 6 if side == "right" else TOKENS - 1] = end
        padding = {"none": slice(0), "right": slice(TOKENS - 5, None), "left": slice(5)}[side]
        ids[row, padding], mask[row, padding] = text.pad_token_id, 0
    return {name: ids, "attention_mask": mask}


def batch_for(one: Architecture, model: PreTrainedModel) -> dict[str, Tensor]:
    """Three rows that the model takes, without labels."""
    config: Any = model.config
    name = model.main_input_name
    if one.model_type == "siglip2":  # an image is a sequence of patches
        vision = config.vision_config
        patches = torch.randn(3, vision.num_patches, 3 * vision.patch_size**2)
        shapes = torch.tensor([[16, 16]] * 3)
        return {name: patches, "pixel_attention_mask": torch.ones(patches.shape[:2]), "spatial_shapes": shapes}
    if one.class_name in SPECIAL_CLASSES:
        return {name: torch.randn(3, 3, 224, 224)}
    if name == "pixel_values" or one.class_name == "PerceiverForImageClassificationLearned":
        size = getattr(getattr(config, "vision_config", config), "image_size", PIXELS)
        return {name: torch.randn(3, 3, *([size, size] if isinstance(size, int) else size))}
    if one.model_type == "audio-spectrogram-transformer":
        return {name: torch.randn(3, config.max_length, config.num_mel_bins)}
    if one.model_type == "whisper":
        return {name: torch.randn(3, config.num_mel_bins, 2 * config.max_source_positions)}
    if one.model_type == "wav2vec2-bert":
        return {name: torch.randn(3, 20, config.feature_projection_input_dim)}
    if name == "input_values":
        return {name: torch.randn(3, 4000)}
    # ShieldGemma2 reads the last token whatever it is: its processor pads on the left
    second = "left" if one.model_type == "shieldgemma2" else "right"
    batch = text_batch(config, name, ("none", second, "left"))
    if one.model_type == "bros":
        batch["bbox"] = torch.rand(3, TOKENS, config.dim_bbox)
    return batch


def labels_for(one: Architecture) -> Tensor:
    return torch.randint(NUM_LABELS, (3, TOKENS) if one.task.startswith("TOKEN") else (3,))


# -- the check


class Seen(Objective):
    """Keeps the batch it was given; its term is the mean square feature (the mean is 0 after a normalisation)."""

    def forward(self, batch: TransferBatch) -> Tensor:
        self.batch = batch
        return batch.features.square().mean()


def run(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Any:
    """The output in training mode, with the same dropout whenever it is called."""
    torch.manual_seed(1)
    np.random.seed(1)  # for the masks of wav2vec2
    return model(**batch)


@contextmanager
def upstream() -> Iterator[None]:
    """What fails in here fails in transformers, or by the tables above, which are those of 5.23."""
    try:
        yield
    except Exception as error:
        if transformers.__version__.startswith("5.23"):
            raise
        pytest.skip(f"transformers {transformers.__version__}: {type(error).__name__}: {error}")


def check(one: Architecture, **options: Any) -> bool:
    """
    Everything this module claims of one architecture; returns whether it pools after its head.

    The bare model and the attached one run in training mode with the same dropout.
    """
    with upstream():
        model = small_model(one, **options)
        batch = batch_for(one, model)
    head = NAMED_HEADS.get(one.class_name)
    found = anatomy(model, head=head)
    emitted: dict[str, Tensor] = {}
    hooks = []
    for name in dict.fromkeys([found.head, *found.modules("head")]):
        module = model.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda *call, name=name: emitted.update({name: call[-1]})))
        torch.nn.init.normal_(next(module.parameters()))  # so that small differences of the features show
    if one.class_name in WITHOUT_LOSS:
        tap = HeadTap(model, found.head)
        tap.open = True
        with upstream():
            output = run(model, batch)
        logits = output["logits"] if "logits" in output else output[0]
        features = tap.take(logits, batch)
        tap.remove()
    else:
        batch["labels"] = labels_for(one)
        with upstream():
            bare = run(model, batch)
        seen = Seen(weight=0.5)
        with attach(model, [seen], head=head) as attachment:
            output = run(model, batch)
        logits, features = output["logits"], seen.batch.features
        torch.testing.assert_close(logits, bare["logits"])
        torch.testing.assert_close(attachment.terms["task"], bare["loss"])
        torch.testing.assert_close(output["loss"], bare["loss"] + 0.5 * features.square().mean())
    for hook in hooks:
        hook.remove()
    check_head(model, found, features, logits, emitted)
    return emitted[found.head].dim() > logits.dim()


def check_head(model: Any, found: Anatomy, features: Tensor, logits: Tensor, emitted: Mapping[str, Tensor]) -> None:
    """Of the features the head makes the logits; `emitted` is what the heads gave in the forward, before pooling."""
    assert features.shape == (*logits.shape[:-1], found.feature_dim)
    assert features.dtype == torch.float32
    assert features.requires_grad

    given, unpooled = model.get_submodule(found.head)(features), emitted[found.head]
    if model.config.model_type == "shieldgemma2":  # the logits of two words
        words = [model.yes_token_index, model.no_token_index]
        given, unpooled = given[..., words], unpooled[..., words]
    others = [other for name, other in emitted.items() if name != found.head]
    torch.testing.assert_close(torch.stack([given, *others]).mean(0), logits, rtol=1e-4, atol=1e-5)

    # The rows differ, and so do the positions one could pool at: else this would hold of any features
    assert torch.pdist(logits.flatten(1)).min() > 1e-4
    if unpooled.dim() > logits.dim():
        distances = (unpooled[0].flatten(0, -2) - logits[0]).abs().amax(-1)
        assert (distances < 1e-4).sum() <= 1


# -- every architecture


class Coverage:
    """What became of each architecture in this run."""

    def __init__(self) -> None:
        self.covered: list[str] = []
        self.pooled_late: list[str] = []
        self.not_run: dict[str, str] = {}

    def __str__(self) -> str:
        line = f"tap and total loss hold for {len(self.covered)} of {len(CLASSIFIERS)} classifiers of transformers "
        line += f"{transformers.__version__}, of which {len(self.pooled_late)} pool after their head"
        return line + "".join(f"\n  not run: {name}: {reason}" for name, reason in self.not_run.items())


@pytest.fixture(scope="module")
def coverage(request: pytest.FixtureRequest) -> Iterator[Coverage]:
    coverage = Coverage()
    yield coverage
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    if capture is not None and coverage.covered:
        with capture.global_and_fixture_disabled():
            print(f"\n{coverage}")


@pytest.mark.parametrize("one", CLASSIFIERS, ids=lambda one: one.id)
def test_every_head(one: Architecture, coverage: Coverage) -> None:
    library = NOT_RUN.get(one.class_name)
    if library is not None:
        coverage.not_run[one.class_name] = f"needs the library {library}"
        if importlib.util.find_spec(library) is None:
            with pytest.raises(ImportError, match=library):
                small_model(one)
        pytest.skip(coverage.not_run[one.class_name])
    if check(one):
        coverage.pooled_late.append(one.id)
    coverage.covered.append(one.id)


def test_all_classifiers_are_covered(coverage: Coverage) -> None:
    if len(coverage.covered) + len(coverage.not_run) < len(CLASSIFIERS):
        pytest.skip("only a part of the classifiers ran in this process")
    assert len(coverage.covered) == len(CLASSIFIERS) - len(NOT_RUN)
    assert len(coverage.pooled_late) > 60


# -- poolings that no default configuration has


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("EuroBertForSequenceClassification", {"classifier_pooling": "mean"}),
        ("EuroBertForSequenceClassification", {"classifier_pooling": "bos"}),
        ("EuroBertForSequenceClassification", {"classifier_pooling": "late"}),
        ("ModernBertForSequenceClassification", {"classifier_pooling": "mean"}),
        ("CohereCompassTextForSequenceClassification", {"pooling": "bos"}),
        ("CohereCompassTextForSequenceClassification", {"pooling": "mean"}),
        ("CohereCompassTextForSequenceClassification", {"pooling": "eos"}),
        ("T5GemmaForSequenceClassification", {"is_encoder_decoder": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_every_pooling(class_name: str, options: dict[str, Any]) -> None:
    check(architecture(class_name), **options)


@pytest.mark.parametrize("class_name", ["EuroBertForSequenceClassification", "GPT2ForSequenceClassification"])
def test_without_a_mask(class_name: str) -> None:
    model = small_model(architecture(class_name))
    seen = Seen()
    with attach(model, [seen]) as attachment:
        logits = model(input_ids=torch.randint(8, VOCABULARY, (3, TOKENS)), labels=torch.tensor([0, 1, 2])).logits
    head = model.get_submodule(attachment.anatomy.head)
    torch.testing.assert_close(head(seen.batch.features), logits)


def test_one_row_without_a_pad_token() -> None:
    model: Any = small_model(architecture("GPT2ForSequenceClassification"))
    model.config.pad_token_id = None
    seen = Seen()
    with attach(model, [seen]):
        logits = model(input_ids=torch.tensor([[9, 10, 0, 0]]), labels=torch.tensor([1])).logits
    torch.testing.assert_close(model.score(seen.batch.features), logits)


# -- what must fail


@pytest.mark.parametrize("class_name", sorted(WITHOUT_LOSS - {"ShieldGemma2ForImageClassification"}))
def test_a_model_without_a_loss_is_an_error_that_says_so(class_name: str) -> None:
    one = architecture(class_name)
    model = small_model(one)
    with attach(model, [Seen()], head=NAMED_HEADS.get(class_name)):
        with pytest.raises(ValueError, match=rf"{class_name} returns no loss .* Load the checkpoint as a class that"):
            model(**batch_for(one, model), labels=labels_for(one))


@pytest.mark.parametrize("kind", ["GPT2", "EuroBert", "T5Gemma"])
def test_a_wrong_pooling_does_not_pass(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadTap, "_pool", lambda self, features, inputs: features[:, -1])
    with pytest.raises(AssertionError, match="not close"):
        check(architecture(f"{kind}ForSequenceClassification"))


def test_a_wrong_head_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadTap, "_keep", lambda self, head, args: setattr(self, "_input", args[0] + 0.01))
    with pytest.raises(AssertionError, match="not close"):
        check(architecture("ViTForImageClassification"))


def test_a_total_without_the_term_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Seen, "weight_at", lambda self, progress: 0.0)
    with pytest.raises(AssertionError, match="not close"):
        check(architecture("ViTForImageClassification"))
