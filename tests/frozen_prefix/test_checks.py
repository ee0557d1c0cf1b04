from __future__ import annotations

import inspect

import pytest
import torch

import hf_transfer.objectives
from hf_transfer import (
    FreezeBackbone,
    Objective,
    RuleConstraint,
    TransferArguments,
)
from hf_transfer.callbacks import FreezeBatchNorm
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from tests.frozen_prefix.harness import RaggedRows, freeze, make, pad
from tests.models import tiny_bert, tiny_vit


TEXT = {"rows": RaggedRows(), "collate": pad}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(RaggedRows())


class Augmented(RaggedRows):
    def __getitem__(self, row):
        example = super().__getitem__(row)
        return {**example, "input_ids": torch.randint(1, 50, (4,)).tolist()}


class Transforming(Objective):
    def transform(self, inputs):
        return inputs

    def forward(self, batch):
        return batch.features.sum()


@pytest.mark.parametrize(
    ("match", "schedule", "options"),
    [
        (
            r"without a freezing schedule \(callbacks: FreezeBatchNorm\) - .* - add FreezeBackbone",
            FreezeBatchNorm(),
            {},
        ),
        (r"FreezeBackbone\(norm_only=True\) - dropout .* - leave `norm_only` out", FreezeBackbone(norm_only=True), {}),
        (r"with Transforming - it changes the inputs .* - train without", None, {"objectives": [Transforming()]}),
        (r"with a stream \(Stream\) - .* - load the data without", None, {"rows": Stream(), "max_steps": 3}),
        (r"with random augmentation .* - all epochs would repeat .* augment=None", None, {"rows": Augmented()}),
        (r"neftune_noise_alpha=5.* - leave `neftune_noise_alpha` out", None, {"neftune_noise_alpha": 5.0}),
        (r"with torch_compile=True - .* - set torch_compile=False", None, {"torch_compile": True}),
    ],
)
def test_what_cannot_be_cached_is_refused_when_the_trainer_is_built(match, schedule, options, tmp_path):
    with pytest.raises(ValueError, match=match):
        make(tmp_path, tiny_bert, schedule or freeze(2), cache=True, **{**TEXT, **options})


def test_without_the_option_nothing_is_refused(tmp_path):
    make(tmp_path, tiny_bert, freeze(2), cache=False, **{**TEXT, "rows": Augmented()})


def test_augmentation_in_the_transform_of_the_recipes_is_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    from hf_transfer.data.preparation import _ImageTransform

    data = datasets.Dataset.from_dict({"image": [1, 2], "labels": [0, 1]})
    data = data.with_transform(_ImageTransform(None, lambda pixels: pixels))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="random augmentation"):
        make(tmp_path, tiny_vit, freeze(1), cache=True, rows=data, remove_unused_columns=False)


def test_deepspeed_and_fsdp_are_refused(tmp_path, monkeypatch):
    from hf_transfer.frozen_prefix.checks import check_model

    args = TransferArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    for name, match in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")):
        with monkeypatch.context() as patch:
            patch.setenv(name, "true")
            with pytest.raises(ValueError, match=f"`cache_frozen_prefix=True` under {match}"):
                check_model(args, tiny_bert())
    check_model(args, tiny_bert())


def test_a_compiled_model_is_refused(tmp_path):
    from hf_transfer.frozen_prefix.checks import check_model

    args = TransferArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    model = tiny_bert()
    model._orig_mod = model.bert
    with pytest.raises(ValueError, match="that `torch.compile` wrapped - .* - pass the bare model"):
        check_model(args, model)


@pytest.mark.parametrize("size", [0.0, -1.0])
def test_the_bound_is_positive(size, tmp_path):
    with pytest.raises(ValueError, match="leaves no room: nothing could be stored. Give a positive"):
        TransferArguments(output_dir=str(tmp_path), frozen_prefix_max_gb=size)


def test_the_objectives_of_the_package_say_that_they_read_inputs():
    """By their source: whoever mentions `.inputs` must say so."""
    found = 0
    for name in hf_transfer.objectives.__all__:
        kind = getattr(hf_transfer.objectives, name)
        if isinstance(kind, type) and issubclass(kind, Objective):
            # a teacher reads them too, and so does a rule
            reads = ".inputs" in inspect.getsource(kind) or issubclass(kind, (TeacherObjective, RuleConstraint))
            found += reads
            assert kind.reads_inputs == reads, name
    assert found >= 2
