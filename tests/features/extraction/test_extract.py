"""Extracted features against plain forwards of single rows, and what the cache does with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, List
from torch import nn
from transformers import BertModel, MobileNetV2Config, MobileNetV2Model, ResNetModel, Wav2Vec2FeatureExtractor

from hf_transfer.anatomy import anatomy
from hf_transfer.data.preparation import prepare
from hf_transfer.data.sound import samples, stored_sound
from hf_transfer.data.sound_extractors import cutting_extractor
from hf_transfer.features.cache.entry import Entry
from hf_transfer.features.extraction import extract as extraction
from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.extraction.inputs import Source
from hf_transfer.features.extraction.shard_columns import ShardColumns
from hf_transfer.features.extraction.taps import block_outputs
from tests.data.test_sound import recordings
from tests.features.extraction.extraction_data import (
    NAMES,
    alone,
    block_alone,
    image_processor,
    images,
    inputs_for,
    stack,
    texts,
    tokenizer,
)
from tests.models import (
    TINY,
    bert_config,
    lora,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_resnet,
    tiny_token_bert,
    tiny_vit,
    tiny_wav2vec2,
)


@pytest.fixture
def extract(tmp_path, monkeypatch):
    """`extract_features` with a cache of its own and shards of 5 rows."""
    monkeypatch.setattr(extraction, "shard_rows_for", lambda source, tokens: 5)

    def call(model, data, processor=None, **options):
        return extract_features(model, data, processor, cache_dir=tmp_path, progress=False, **options)

    return call


def forwards(model: nn.Module) -> list[int]:
    """Rows of every forward from now on."""
    found: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(len(next(iter(kwargs.values())))), with_kwargs=True
    )
    return found


def assert_rows(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, atol=2e-5, rtol=1e-4)


# --- numbers


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("kind", TINY)
def test_features_are_those_of_each_row_alone(kind, batch_size, extract):
    model = TINY[kind]()
    data = inputs_for(model)
    features = extract(model, data, batch_size=batch_size)
    assert_rows(features["features"], alone(model, data))
    assert features["id"] == list(range(13))
    assert features["labels"] == data["labels"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["bert", "token_bert", "gpt2", "llama"])
def test_padding_in_the_data_does_not_count(kind, side, extract):
    model = TINY[kind]()
    features = extract(model, inputs_for(model, padded=side), batch_size=3)
    bare = inputs_for(model)
    assert_rows(features["features"], alone(model, bare))
    assert features["labels"] == bare["labels"]


@pytest.mark.parametrize(
    "make", [lambda: lora(tiny_bert(), ["query"], "classifier"), lambda: lora(tiny_llama(), ["q_proj"], "score")]
)
def test_under_lora(make, extract):
    model = make()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    data = inputs_for(model)
    features = extract(model, data, taps=["head", 0], batch_size=4)
    assert_rows(features["features"], alone(model, data))
    outputs = block_alone(model, data, anatomy(model).blocks[0])
    assert_rows(features["block.0"], [row.mean(0) for row in outputs])


POOLED = {
    "mean": lambda rows: rows.mean(0),
    "cls": lambda rows: rows[0],
    "last": lambda rows: rows[-1],
    "none": lambda rows: rows,
}


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("kind", TINY)
def test_every_block_and_pooling(kind, pooling, extract):
    model = TINY[kind]()
    data = inputs_for(model, 7)
    maps = kind == "resnet"
    if (maps and pooling == "cls") or (kind in ("vit", "resnet") and pooling == "last"):
        with pytest.raises(ValueError, match='Choose "mean"'):
            extract(model, data, taps="blocks", pooling=pooling)
        return
    features = extract(model, data, taps="blocks", pooling=pooling, batch_size=4)
    modules = block_outputs(model)
    assert features.column_names == [*(f"block.{n}" for n in range(len(modules))), "id", "labels"]
    for number, module in enumerate(modules):
        outputs = block_alone(model, data, module)
        if maps:
            outputs = [row.reshape(len(row), -1).T for row in outputs]
        assert_rows(features[f"block.{number}"], [POOLED[pooling](row) for row in outputs])


def test_taps_by_number_name_and_from_the_end(extract):
    model = tiny_bert()
    data = inputs_for(model)
    features = extract(model, data, taps=[-1, "head", "block.0", 2])
    assert features.column_names == ["block.2", "features", "block.0", "id", "labels"]
    assert_rows(features["features"], alone(model, data))


@pytest.mark.parametrize("pooling", POOLED)
def test_the_head_of_a_decoder_pooled_otherwise(pooling, extract):
    model = tiny_llama()
    data = inputs_for(model)
    inner = block_alone(model, data, "model.norm")
    features = extract(model, data, pooling=pooling, batch_size=4)
    assert_rows(features["features"], [POOLED[pooling](row) for row in inner])


def test_a_pooling_for_a_head_that_sees_one_vector_is_refused(extract):
    with pytest.raises(ValueError, match=r'pooling="mean" was given for the head, but what enters .* has pooled'):
        extract(tiny_bert(), inputs_for(tiny_bert()), pooling="mean")


def test_base_models(extract):
    model = BertModel(bert_config()).eval()
    data = inputs_for(model).remove_columns(["labels"])
    with torch.no_grad():
        outputs = [model(input_ids=torch.tensor([row])) for row in data["input_ids"]]
    assert_rows(extract(model, data)["features"], [output.pooler_output[0].numpy() for output in outputs])
    hidden = [output.last_hidden_state[0].numpy() for output in outputs]
    assert_rows(extract(model, data, pooling="mean")["features"], [row.mean(0) for row in hidden])
    blocks = extract(model, data, taps=[-1], pooling="last", batch_size=5)
    assert blocks.column_names == ["block.2", "id"]
    assert_rows(blocks["block.2"], [row[-1] for row in hidden])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNetModel(tiny_resnet().config),
        lambda: MobileNetV2Model(
            MobileNetV2Config(image_size=32, depth_multiplier=0.25, finegrained_output=False, tf_padding=False)
        ),
    ],
)
def test_base_models_of_images(make, extract):
    model = make().eval()
    pixels = torch.randn(3, 3, 32, 32)
    data = Dataset.from_dict({"pixel_values": pixels.numpy()})
    with torch.no_grad():
        output = model(pixels)
    np.testing.assert_allclose(stack(extract(model, data)), output.pooler_output.flatten(1), atol=1e-5)
    mean = output.last_hidden_state.mean((2, 3))
    np.testing.assert_allclose(stack(extract(model, data, pooling="mean")), mean, atol=1e-5)


# --- inputs


def test_raw_text_is_the_prepared_text(extract):
    model = tiny_bert()
    raw = texts()
    prepared = prepare(raw, tokenizer())
    features = extract(model, raw, tokenizer(), batch_size=5)
    assert_rows(features["features"], alone(model, prepared))
    assert_rows(extract(model, prepared)["features"], features["features"])
    assert features.features["labels"] == ClassLabel(names=NAMES)


def test_the_side_on_which_a_tokenizer_pads_does_not_matter(extract):
    model = tiny_gpt2()
    right = extract(model, texts(), tokenizer(), batch_size=5)
    left = extract(model, texts(), tokenizer(padding_side="left"), batch_size=4)
    assert_rows(left["features"], right["features"])
    assert_rows(left["features"], alone(model, prepare(texts(), tokenizer())))


def test_pairs_and_max_length(extract):
    raw = texts().add_column("text_pair", ["lives in"] * 12)
    model = tiny_bert()
    features = extract(model, raw, tokenizer(), max_length=6)
    prepared = prepare(raw, tokenizer(), max_length=6)
    with torch.no_grad():
        model.eval()
        pooled = [
            model.bert(**{n: torch.tensor([row[n]]) for n in ("input_ids", "token_type_ids")}).pooler_output[0].numpy()
            for row in prepared
        ]
    assert max(map(len, prepared["input_ids"])) == 6
    assert_rows(features["features"], pooled)


def test_words_with_labels(extract):
    data = Dataset.from_dict(
        {"tokens": [["zurich", "lives"], ["in"], ["zuricher", "good", "bad"]], "label": [[1, 2], [0], [2, 0, 1]]}
    )
    data = data.cast_column("label", List(ClassLabel(names=NAMES)))
    model = tiny_token_bert()
    features = extract(model, data, tokenizer())
    prepared = prepare(data, tokenizer())
    assert features["labels"] == prepared["labels"]
    assert features.features["labels"] == List(ClassLabel(names=NAMES))
    assert_rows(features["features"], alone(model, prepared))
    assert [len(row) for row in features["features"]] == [len(row) for row in prepared["labels"]]


def test_raw_images_are_the_prepared_images(extract):
    model = tiny_vit()
    prepared = prepare(images(), image_processor())
    expected = alone(model, prepared)
    raw = extract(model, images(), image_processor(), batch_size=3, num_workers=2)
    assert_rows(raw["features"], expected)
    found = forwards(model)
    assert_rows(extract(model, prepared)["features"], expected)
    assert not found  # the same entry
    assert_rows(extract(model, images(), image_processor(), num_workers=0, overwrite=True)["features"], expected)


def test_sound_of_unequal_lengths_and_raw(extract):
    model = tiny_wav2vec2()
    sounds = inputs_for(model)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    raw = Dataset.from_dict({"audio": [{"array": row, "sampling_rate": 16000} for row in sounds["input_values"]]})
    assert_rows(extract(model, raw, extractor)["features"], alone(model, sounds))


def test_prepared_sound_is_the_raw_one_and_how_much_is_heard_counts(extract):
    model, generator = tiny_wav2vec2(feat_extract_norm="layer", conv_bias=True), np.random.default_rng(0)
    data = recordings(*(generator.uniform(-0.5, 0.5, size).astype(np.float32) for size in (900, 1500, 1200, 700)))

    def hearing(seconds: float | None = None) -> Any:
        return cutting_extractor(Wav2Vec2FeatureExtractor(return_attention_mask=True), seconds)

    raw = extract(model, data, hearing())
    found = forwards(model)
    prepared = extract(model, prepare(data, hearing()))
    assert not found and prepared["features"] == raw["features"] and prepared["labels"] == [0, 1, 0, 1]
    cut = extract(model, prepare(data, hearing(0.05)))
    assert found
    for row, size in enumerate((800, 800, 800, 700)):
        one = hearing()(samples(stored_sound(data)[row]["audio"], 16000)[:size], sampling_rate=16000)
        assert_rows([cut["features"][row]], alone(model, Dataset.from_dict({"input_values": one["input_values"]})))


def test_selected_and_shuffled_rows(extract):
    model = tiny_bert()
    data = inputs_for(model).shuffle(seed=1).select(range(2, 11))
    features = extract(model, data, columns=["domain"])
    assert_rows(features["features"], alone(model, data))
    assert features["labels"] == data["labels"] and features["domain"] == data["domain"]
    assert features["id"] == list(range(9))


def test_several_labels_a_row_stay_with_the_row(extract):
    model = tiny_bert(problem_type="multi_label_classification")
    data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5, 6]], "labels": [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]})
    features = extract(model, data)
    assert features["labels"] == data["labels"] and len(features[0]["features"]) == 16


def test_a_transform_of_ones_own(extract):
    model = tiny_bert()
    words = tokenizer()
    data = texts().with_transform(lambda batch: {**words(batch["text"]), "labels": batch["label"]})
    assert_rows(extract(model, data)["features"], alone(model, prepare(texts(), words)))


def test_a_collator_of_ones_own(extract):
    from transformers import DataCollatorWithPadding

    model = tiny_bert()
    data = prepare(texts(), tokenizer())
    expected = alone(model, data)
    collator = DataCollatorWithPadding(tokenizer(), pad_to_multiple_of=8)
    found = forwards(model)
    assert_rows(extract(model, data, data_collator=collator)["features"], expected)
    assert found


# --- types


def test_half_precision_is_stored(extract):
    model = tiny_bert()
    data = inputs_for(model)
    half = extract(model, data, dtype="float16")
    assert half.features["features"].feature.dtype == "float16"
    np.testing.assert_allclose(stack(half), np.stack(alone(model, data)), atol=1e-3)


def test_bfloat16_runs_in_it_and_stores_single(extract):
    model = tiny_bert()
    data = inputs_for(model)
    low = extract(model, data, dtype="bfloat16")
    assert low.features["features"].feature.dtype == "float32"
    exact = np.stack(alone(model, data))
    np.testing.assert_allclose(stack(low), exact, atol=0.05)
    assert np.abs(stack(low) - exact).max() > 1e-6


def test_a_model_in_bfloat16(extract):
    model = tiny_vit()
    data = inputs_for(model)
    expected = np.stack(alone(model, data))
    np.testing.assert_allclose(stack(extract(model.bfloat16(), data)), expected, atol=0.1)


def test_what_half_precision_cannot_hold_is_refused(extract):
    model = tiny_vit()
    model.vit.layernorm.weight.data.fill_(1e6)
    with pytest.raises(ValueError, match=r"values up to .*half precision ends at 65504.* dtype=\"float32\""):
        extract(model, inputs_for(model), dtype="float16")
    assert stack(extract(model, inputs_for(model))).max() > 65504


def test_features_that_are_no_numbers_are_refused(extract):
    model = tiny_bert()
    model.bert.pooler.dense.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="Row 0 has values in `features` that are not finite"):
        extract(model, inputs_for(model))


# --- views


def noise(pixels):
    return pixels + torch.randn_like(pixels)


def test_views_are_stored_and_the_same_each_time(extract, tmp_path):
    model = tiny_vit()
    prepared = prepare(images(), image_processor())
    state = torch.get_rng_state()
    features = extract(model, images(), image_processor(), views=3, augment=noise, seed=5, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert features["id"] == [row for row in range(10) for _ in range(3)]
    assert features["view"] == [0, 1, 2] * 10 and features["labels"] == [
        row % 3 for row in range(10) for _ in range(3)
    ]
    model.eval()
    expected = []
    for row in range(10):
        for view in range(3):
            torch.manual_seed(int(np.random.SeedSequence((5, row, view)).generate_state(1)[0]))
            drawn = noise(prepared[row]["pixel_values"].unsqueeze(0))
            with torch.no_grad():
                expected.append(model.vit(drawn).last_hidden_state[0, 0].numpy())
    assert_rows(features["features"], expected)
    found = forwards(model)
    again = extract(model, images(), image_processor(), views=3, augment=noise, seed=5)
    assert not found and np.array_equal(stack(again), stack(features))
    assert not np.allclose(stack(extract(model, images(), image_processor(), views=3, augment=noise)), stack(features))


def test_random_transforms_are_refused(extract):
    model = tiny_vit()
    with pytest.raises(ValueError, match="augments its images at random.*views=4"):
        extract(model, prepare(images(), image_processor(), augment=noise))
    processor = image_processor()

    def draw(batch):
        return {"pixel_values": noise(processor(batch["image"], return_tensors="pt")["pixel_values"])}

    with pytest.raises(ValueError, match="two different answers for the same rows: it is random"):
        extract(model, images().with_transform(draw))
    with pytest.raises(ValueError, match="without `augment`: all of them would be the same"):
        extract(model, images(), image_processor(), views=2)
    with pytest.raises(ValueError, match="reads no images"):
        extract(tiny_bert(), texts(), tokenizer(), views=2, augment=noise)


# --- the cache


def test_a_warm_call_does_not_run_the_model(extract):
    model = tiny_bert()
    data = inputs_for(model)
    first = extract(model, data)
    found = forwards(model)
    again = extract(model, data)
    assert not found and np.array_equal(stack(first), stack(again))
    assert again.data.table.column("features").num_chunks == 3  # mapped shard by shard
    assert again.cache_files


@pytest.mark.parametrize("make", [tiny_bert, lambda: lora(tiny_bert(), ["query"], "classifier"), tiny_gpt2])
def test_head_labels_and_batch_size_are_not_in_the_key(make, extract):
    model = make()
    data = inputs_for(model)
    extract(model, data)
    head = model.get_submodule(anatomy(model).head)
    nn.init.normal_(head.weight)
    found = forwards(model)
    extract(model, data, batch_size=2)
    changed = extract(model, data.remove_columns("labels").add_column("labels", [0] * 13), columns=["domain"])
    assert not found and changed["labels"] == [0] * 13


def test_what_features_depend_on_is_in_the_key(extract):
    model = tiny_bert()
    data = texts()
    extract(model, data, tokenizer())
    calls = [
        lambda: extract(model, data, tokenizer(), max_length=4),
        lambda: extract(model, data, tokenizer(), dtype="float16"),
        lambda: extract(model, data, tokenizer(), taps=0),
        lambda: extract(model, data, tokenizer(), taps=0, pooling="cls"),
        lambda: extract(model, data.select([1, 0, *range(2, 12)]), tokenizer()),
        lambda: extract(model, data, tokenizer(truncation_side="left")),
    ]
    found = forwards(model)
    for call in calls:
        found.clear()
        call()
        assert found
    model.bert.encoder.layer[1].output.dense.bias.data[0] += 1
    found.clear()
    extract(model, data, tokenizer())
    assert found


def test_a_run_that_was_stopped_goes_on_with_the_missing_shards(extract, monkeypatch):
    model = tiny_bert().train()
    model.bert.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    data = inputs_for(model)
    write, written = Entry.write, []

    def failing(self, shard, *args):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        return write(self, shard, *args)

    monkeypatch.setattr(Entry, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        extract(model, data)
    assert modes == [module.training for module in model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    monkeypatch.setattr(Entry, "write", write)
    found = forwards(model)
    features = extract(model, data)
    assert sum(found) <= 2 * 3 + 1  # the three rows of the last shard, which are also tried together and alone
    assert_rows(features["features"], alone(model, data))


def test_an_error_of_the_model_leaves_it_as_it_was(extract):
    model = tiny_bert().train()
    handle = model.bert.pooler.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(model, inputs_for(model))
    handle.remove()
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not torch.is_inference_mode_enabled()


def test_a_damaged_shard_is_computed_alone(extract, tmp_path):
    model = tiny_bert()
    data = inputs_for(model)
    before = stack(extract(model, data))
    (shard,) = tmp_path.glob("*/shard-00001-*.arrow")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    found = forwards(model)
    after = stack(extract(model, data))
    assert np.allclose(before, after, atol=1e-6)
    assert sum(found) == 5 + 5 + 1  # tried together, the shortest alone, then the shard


def test_overwrite_computes_all_rows_again(extract, tmp_path):
    model = tiny_bert()
    data = inputs_for(model)
    extract(model, data)
    found = forwards(model)
    extract(model, data, overwrite=True)
    assert sum(found) >= 13 and len(list(tmp_path.glob("*/shard-*"))) == 3


def test_no_more_than_a_shard_of_features_and_two_windows_are_held(extract, monkeypatch):
    import gc
    import weakref

    held: dict[str, weakref.WeakSet] = {"shards": weakref.WeakSet(), "windows": weakref.WeakSet()}
    most = {"shards": 0, "windows": 0}
    init, window, write = ShardColumns.__init__, Source.window, Entry.write

    def counting_init(self, *args, **options):
        init(self, *args, **options)
        held["shards"].add(self)

    def counting_window(self, rows):
        made = window(self, rows)
        held["windows"].add(made)
        return made

    def counting_write(self, *args):
        gc.collect()
        most.update({name: max(most[name], len(kept)) for name, kept in held.items()})
        return write(self, *args)

    monkeypatch.setattr(ShardColumns, "__init__", counting_init)
    monkeypatch.setattr(Source, "window", counting_window)
    monkeypatch.setattr(Entry, "write", counting_write)
    model = tiny_bert()
    extract(model, inputs_for(model, 60))  # twelve shards
    assert most["shards"] == 1 and most["windows"] <= 4  # this one and those that are tokenised ahead


def test_progress_is_shown_in_examples_a_second(tmp_path, capfd):
    import transformers

    model = tiny_bert()
    transformers.logging.enable_progress_bar()
    try:
        extract_features(model, inputs_for(model), cache_dir=tmp_path)
        assert "examples/s" in (shown := capfd.readouterr().err) and "13/13" in shown
        extract_features(model, inputs_for(model, seed=1), cache_dir=tmp_path, progress=False)
        assert "Extracting" not in capfd.readouterr().err
    finally:
        transformers.logging.disable_progress_bar()


# --- refusals


def test_arguments_are_checked(extract):
    model, data = tiny_bert(), inputs_for(tiny_bert())
    with pytest.raises(ValueError, match="batch_size=0.*Give at least 1 row"):
        extract(model, data, batch_size=0)
    with pytest.raises(ValueError, match='dtype="int8" is unknown.*Choose one of float32'):
        extract(model, data, dtype="int8")
    with pytest.raises(ValueError, match='columns names "colour".*`domain`'):
        extract(model, data, columns=["colour"])
    with pytest.raises(ValueError, match="`augment` cannot be pickled"):
        extract(
            tiny_vit(), images(), image_processor(), augment=(lambda lock: lambda pixels: lock and pixels)(_lock())
        )


def _lock():
    class Locked:
        def __reduce__(self):
            raise TypeError("no")

    return Locked()


def test_shards_are_a_function_of_the_number_of_rows():
    class Rows:
        def __init__(self, count, is_text):
            self.count, self.is_text = count, is_text

        def __len__(self):
            return self.count

    sizes = {
        (n, text): extraction.shard_rows_for(Rows(n, text), tokens=False)
        for n in (10, 12_000, 10**6)
        for text in (True, False)
    }  # type: ignore[arg-type]
    assert sizes == {
        (10, True): 1024,
        (12_000, True): 1500,
        (10**6, True): 2048,
        (10, False): 64,
        (12_000, False): 1500,
        (10**6, False): 2048,
    }
    assert extraction.shard_rows_for(Rows(10**6, True), tokens=True) == 128  # type: ignore[arg-type]
