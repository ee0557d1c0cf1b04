from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset, Image, concatenate_datasets
from torch import nn
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from hf_transfer import RDrop, TransferArguments, TransferTrainer
from hf_transfer.cache_commands import _table
from hf_transfer.data.preparation import prepare
from hf_transfer.features.cache import entries
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher
from hf_transfer.teacher import cache as caching
from hf_transfer.teacher.cache import cache_teacher
from hf_transfer.teacher.cached_teacher import CachedTeacher
from hf_transfer.teacher.collator import TeacherCollator
from hf_transfer.teacher.top_k import keep_top_k
from tests.features.extraction.extraction_data import alone, block_alone, image_processor, images, inputs_for, texts
from tests.features.extraction.extraction_data import tokenizer as word_tokenizer
from tests.models import TINY, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit
from tests.teacher.cache_data import PlainDistillation


@pytest.fixture
def cached(tmp_path):
    return lambda teacher, data, *args, **options: cache_teacher(
        teacher, data, *args, cache_dir=tmp_path / "cache", progress=False, **options
    )


@pytest.fixture
def forwards(monkeypatch):
    """Rows of every forward of a teacher."""
    rows, call = [], Source.__call__

    def counted(self, inputs, **options):
        rows.append(len(next(iter(inputs.values()))))
        return call(self, inputs, **options)

    monkeypatch.setattr(Source, "__call__", counted)
    return rows


@torch.no_grad()
def logits_alone(model, data):
    """Logits of each row in a plain forward of that row, without padding."""
    model.eval()
    found = []
    for row in data:
        if model.main_input_name == "input_ids":
            ids = [token for token, kept in zip(row["input_ids"], row.get("attention_mask", [1] * 99)) if kept]  # noqa: B905
            inputs = {"input_ids": torch.tensor([ids])}
        else:
            inputs = {model.main_input_name: torch.as_tensor(np.array(row[model.main_input_name])).float()[None]}
        found.append(model(**inputs).logits[0].numpy())
    return found


@pytest.mark.parametrize("kind", ["bert", "token_bert", "gpt2", "llama", "vit", "resnet", "wav2vec2"])
def test_every_kind_of_teacher_says_of_each_row_what_it_says_of_it_alone(kind, cached):
    model = TINY[kind]()
    data = inputs_for(model, 13)
    result = cached(model, data, batch_size=4, features=True)
    assert result.column_names[: len(data.column_names)] == data.column_names and len(result) == 13
    for row, logits, features in zip(result, logits_alone(model, data), alone(model, data), strict=True):
        np.testing.assert_allclose(np.array(row["teacher_logits"]), logits, atol=2e-6)
        np.testing.assert_allclose(np.array(row["teacher_features"]), features, atol=2e-6)


def test_hidden_states_by_name_and_number(cached):
    model = tiny_bert()
    data = inputs_for(model, 9)
    name = "bert.encoder.layer.1"
    result = cached(model, data, batch_size=4, hidden_states=[name, -1])
    assert {n for n in result.column_names if "hidden" in n} == {
        f"teacher_hidden.{name}",
        "teacher_hidden.bert.encoder.layer.2",
    }
    for row, expected in zip(result, block_alone(model, data, name), strict=True):
        np.testing.assert_allclose(np.array(row[f"teacher_hidden.{name}"]), expected, atol=2e-6)
        assert np.array(row["teacher_logits"]).shape == (3,)  # beside states per token, one a row
    maps = tiny_resnet()
    result = cached(maps, inputs_for(maps, 3), hidden_states=["resnet.encoder.stages.0"])
    assert np.array(result[0]["teacher_hidden.resnet.encoder.stages.0"]).ndim == 3


def test_asked_again_the_teacher_does_not_run(cached, forwards):
    model = tiny_bert()
    data = inputs_for(model, 20)
    first = cached(model, data)
    assert sum(forwards)
    forwards.clear()
    again = cached(model, data)
    assert not forwards and again["teacher_logits"] == first["teacher_logits"]
    nn.init.ones_(model.classifier.bias)  # type: ignore[union-attr]
    assert cached(model, data)["teacher_logits"] != first["teacher_logits"] and forwards  # the head counts
    forwards.clear()
    cached(model, data.map(lambda row: {"labels": 0}))
    assert not forwards  # labels do not
    cached(model, data, overwrite=True)
    assert forwards


def test_every_forward_has_the_same_number_of_rows(cached, forwards, monkeypatch):
    monkeypatch.setattr(caching, "shard_rows_for", lambda source, tokens: 9)
    model = tiny_vit()
    cached(model, inputs_for(model, 21), batch_size=4)
    # eight rows tried and one alone, then three shards of 9, 9 and 3 rows
    assert forwards == [8, 1, 4, 4, 4, 4, 4, 4, 4]


def test_an_interrupted_run_goes_on(cached, forwards, monkeypatch):
    monkeypatch.setattr(caching, "shard_rows_for", lambda source, tokens: 5)
    model = tiny_bert()
    data = inputs_for(model, 20)
    write, written = caching.Entry.write, []

    def dying(self, shard, *args):
        if shard == 2:
            raise KeyboardInterrupt
        written.append(shard)
        write(self, shard, *args)

    monkeypatch.setattr(caching.Entry, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        cached(model, data)
    monkeypatch.setattr(
        caching.Entry, "write", lambda self, shard, *args: written.append(shard) or write(self, shard, *args)
    )
    result = cached(model, data)
    assert written == [0, 1, 2, 3]
    for row, logits in zip(result, logits_alone(model, data), strict=True):
        np.testing.assert_allclose(row["teacher_logits"], logits, atol=2e-6)


def test_raw_columns_with_the_teachers_processor(cached, tmp_path):
    bert, vit = tiny_bert(), tiny_vit()
    text = cached(bert, texts(), word_tokenizer())
    ready = cached(bert, prepare(texts(), word_tokenizer()))
    np.testing.assert_allclose(text["teacher_logits"], ready["teacher_logits"], atol=2e-6)
    pictures = cached(vit, images(), image_processor())
    prepared = cached(vit, prepare(images(), image_processor()))
    np.testing.assert_allclose(pictures["teacher_logits"], prepared["teacher_logits"][:], atol=2e-6)
    assert isinstance(pictures.features["image"], Image)
    assert prepared[0]["pixel_values"].shape == (3, 8, 8) and len(prepared[:3]["teacher_logits"]) == 3


def test_columns_stay_with_their_rows(cached):
    model = tiny_bert()
    data = inputs_for(model, 40)
    shuffled = data.shuffle(seed=1).select(range(3, 40, 2))
    result = cached(model, shuffled)
    later = result.filter(lambda row: row["labels"] != 1).shuffle(seed=2).train_test_split(0.5, seed=0)["train"]
    for part in (result, later):
        for row, logits in zip(part, logits_alone(model, part), strict=True):
            np.testing.assert_allclose(row["teacher_logits"], logits, atol=2e-6)
    assert result.data.nbytes >= data.data.nbytes and result._indices is not None  # the selection is no copy
    few = cached(model, data.select([7, 30, 2]))
    for row, logits in zip(few, logits_alone(model, data.select([7, 30, 2])), strict=True):
        np.testing.assert_allclose(row["teacher_logits"], logits, atol=2e-6)


def pixels_only(batch):
    return {"pixel_values": [torch.as_tensor(np.array(value)).float() for value in batch["stored"]]}


def test_a_transform_that_drops_columns_hands_these_on(cached):
    model = tiny_vit()
    data = inputs_for(model, 9)
    shown = data.rename_column("pixel_values", "stored").with_transform(pixels_only)
    result = cached(model, shown)
    assert set(result[0]) == {"pixel_values", "teacher_logits"}
    plain = cached(model, data)
    np.testing.assert_allclose(result[:]["teacher_logits"], plain["teacher_logits"][:], atol=2e-6)


def test_formats_are_kept(cached):
    model = tiny_bert()
    data = inputs_for(model, 6, padded="right").with_format("torch", columns=["input_ids", "attention_mask"])
    row = cached(model, data)[0]
    assert (
        set(row) == {"input_ids", "attention_mask", "teacher_logits"} and row["teacher_logits"].dtype == torch.float32
    )


def test_half_precision_and_largest(cached):
    model = tiny_token_bert(num_labels=6)
    data = inputs_for(model, 11)
    full = cached(model, data)
    half = cached(model, data, store="float16")
    top = cached(model, data, store="top_k", k=2, features=True)
    assert half.features["teacher_logits"].feature.feature.dtype == "float16"
    for whole, halved, largest in zip(full, half, top, strict=True):
        logits = torch.tensor(whole["teacher_logits"])
        assert torch.equal(torch.tensor(halved["teacher_logits"]), logits.half().float())
        values, indices, rest = keep_top_k(logits, 2)
        assert torch.equal(torch.tensor(largest["teacher_top_values"]), values)
        assert torch.equal(torch.tensor(largest["teacher_top_indices"]), indices)
        assert torch.equal(torch.tensor(largest["teacher_log_rest"]), rest)
        assert largest["teacher_classes"] == 6 and len(largest["teacher_features"]) == len(logits)


def test_several_teachers_say_their_mean(cached):
    first, second = tiny_bert(), tiny_bert()
    data = inputs_for(first, 9)
    result = cached(Teacher([first, second], weights=[3, 1]), data)
    for row, a, b in zip(result, logits_alone(first, data), logits_alone(second, data), strict=True):
        np.testing.assert_allclose(row["teacher_logits"], 0.75 * a + 0.25 * b, atol=2e-6)
    with pytest.raises(ValueError, match="each of several models has a space of its own"):
        cached(Teacher([first, second]), data, features=True)
    with pytest.raises(ValueError, match="best of several teachers is chosen by the labels"):
        cached(Teacher([first, second], combine="best"), data)


@pytest.mark.parametrize("kind", ["bert", "token_bert"])
def test_padded_batches_of_the_usual_collators(kind, cached, tmp_path):
    """Text padded to the longest row of each batch: equal to rounding."""
    teacher = TINY[kind]()
    data = inputs_for(teacher, 16)
    usual = (DataCollatorWithPadding if kind == "bert" else DataCollatorForTokenClassification)(word_tokenizer())
    result = cached(teacher, data)
    collate = TeacherCollator(usual)
    rows = [{name: result[n][name] for name in result.column_names if name != "domain"} for n in range(5)]
    batch = collate(rows)
    with torch.no_grad():
        online = teacher.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    real = batch["attention_mask"].bool() if kind == "token_bert" else slice(None)
    torch.testing.assert_close(batch["teacher_logits"][real], online[real], atol=2e-6, rtol=0)


def test_other_tokens_are_refused_when_collated(cached):
    data = inputs_for(tiny_token_bert(), 8).remove_columns("domain")
    result = cached(tiny_token_bert(), data)
    collate = TeacherCollator(DataCollatorForTokenClassification(word_tokenizer()))
    rows = [dict(result[n]) for n in range(3)]
    assert collate(rows)["teacher_logits"].shape[0] == 3
    rows[1]["input_ids"] = [(token % 40) + 1 for token in rows[1]["input_ids"]]
    with pytest.raises(ValueError, match="are not those that the teacher read"):
        collate(rows)


def test_training_reads_the_columns_and_never_runs_the_teacher(cached, forwards, tmp_path):
    teacher = Teacher(tiny_bert())
    data = inputs_for(tiny_bert(), 16, padded="right").remove_columns("domain")
    result = cached(teacher, data, hidden_states=[0], features=True)
    forwards.clear()
    seen = []

    class Reading(PlainDistillation):
        def build(self, spec):
            self.teacher.require(hidden_states=["bert.encoder.layer.0"])
            return super().build(spec)

        def forward(self, batch):
            said = self.taught(batch)
            seen.append((said.features.shape, said.hidden_states["bert.encoder.layer.0"].shape))
            return super().forward(batch)

    args = TransferArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    collate = TeacherCollator(DataCollatorWithPadding(word_tokenizer()))
    objectives = [RDrop(), Reading(teacher)]
    TransferTrainer(tiny_bert(), args, train_dataset=result, data_collator=collate, objectives=objectives).train()  # type: ignore[arg-type]
    assert not forwards and seen == [((16, 16), (16, 9, 16))] * 2


def test_it_is_listed_as_a_teacher(cached, tmp_path):
    model = tiny_bert()
    cached(model, inputs_for(model, 5), store="top_k", k=1, features=True)
    (info,) = entries(tmp_path / "cache")
    assert info.complete and info.description["kind"] == "teacher" and info.description["dtype"] == "float32"
    line = _table([info]).splitlines()[1].split()
    assert line[1:5] == ["teacher", "BertForSequenceClassification", "teacher_logits,", "teacher_features"]


class Drawn:
    def __call__(self, batch):
        return {"pixel_values": [torch.rand(3, 8, 8) for _ in batch["labels"]]}


def test_random_inputs_are_refused(cached):
    model = tiny_vit()
    with pytest.raises(ValueError, match="it is random, .* leave the cache out and give the objective the teacher"):
        cached(model, inputs_for(model, 9).with_transform(Drawn()))
    augmented = prepare(images(), image_processor(), augment=torch.rand_like)
    with pytest.raises(ValueError, match="augments its images at random: the teacher's answers to one draw"):
        cached(model, augmented)


def test_bad_arguments(cached):
    model = tiny_bert()
    data = inputs_for(model, 5)
    with pytest.raises(ValueError, match="batch_size=0 and num_workers=None were given: no row"):
        cached(model, data, batch_size=0)
    with pytest.raises(ValueError, match='store="half" is unknown'):
        cached(model, data, store="half")
    with pytest.raises(ValueError, match='k=2 with store="float32": all logits are stored'):
        cached(model, data, k=2)
    for k in (None, 0, 3):
        with pytest.raises(ValueError, match=f'store="top_k" with k={k} for 3 classes'):
            cached(model, data, store="top_k", k=k)
    for problem in ("regression", "multi_label_classification"):
        with pytest.raises(ValueError, match=f"a teacher of {problem}: its outputs are no distribution"):
            cached(tiny_bert(problem_type=problem), data, store="top_k", k=1)
    with pytest.raises(ValueError, match="`nothing`, and the teacher has no such module"):
        cached(model, data, hidden_states=["nothing"])
    with pytest.raises(ValueError, match="names block 3, and the teacher has 3"):
        cached(model, data, hidden_states=[3])
    with pytest.raises(ValueError, match="`CachedTeacher` was given: it has no model to ask"):
        cached(CachedTeacher(), data)
    with pytest.raises(TypeError, match="`datasets.Dataset`"):
        cached(model, data.to_iterable_dataset())
    done = cached(model, data)
    with pytest.raises(ValueError, match="has `?teacher_logits`? already: two teachers"):
        cached(model, done)


def test_values_that_cannot_be_stored(cached):
    model = tiny_bert()
    data = inputs_for(model, 5)
    nn.init.constant_(model.classifier.bias, 1e5)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r'up to 1e\+05 for row \d .* half precision .* Pass store="float32"'):
        cached(model, data, store="float16")
    nn.init.constant_(model.classifier.bias, float("nan"))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="values that are not finite for row"):
        cached(model, data)


def test_a_part_of_the_rows_only(cached):
    model = tiny_bert()
    data = inputs_for(model, 6, padded="right").remove_columns("domain")
    mixed = concatenate_datasets([cached(model, data), data])
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        TeacherCollator(DataCollatorWithPadding(word_tokenizer()))([mixed[n] for n in (5, 6)])


def test_a_teacher_without_a_head_has_features_only(cached):
    from transformers import BertModel

    from tests.models import bert_config

    model = BertModel(bert_config())
    data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]]})
    result = cached(model, data, features=True)
    assert "teacher_logits" not in result.column_names and len(result[0]["teacher_features"]) == 16
    with pytest.raises(ValueError, match="predicts nothing .* there are no logits to store"):
        cached(model, data)


@pytest.mark.parametrize(("local_rank", "index"), [("1", 1), (None, 3)])
def test_a_teacher_runs_on_the_accelerator_of_its_process(tmp_path, monkeypatch, local_rank, index):
    tiny_bert().save_pretrained(tmp_path)  # type: ignore[operator]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert caching._device(Teacher(str(tmp_path))) == torch.device("cuda", index)
