"""What the comparison on few labels refuses before it loads anything."""

from __future__ import annotations

import pytest

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.few_shot.arguments import FewShotArguments, FewShotFeatureArguments, FewShotLoopArguments
from hf_transfer.few_shot.few_labels import FewLabelComparison
from hf_transfer.few_shot.heads import FOLDABLE
from hf_transfer.few_shot.methods import FEW_LABELS
from hf_transfer.recipe_arguments import DataArguments, ModelArguments
from tests.recipes.conftest import image_folder


def compare(tmp_path, *, rows: int = 16, dataset: str = "data", adapter: str = "none", **options):
    recipe = FewShotArguments(dataset, mode="classes", methods=["contrastive"])
    args = FewShotLoopArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=rows)
    features, data = FewShotFeatureArguments(**options), DataArguments(samples_per_class=2)
    return FewLabelComparison(recipe, features, ModelArguments(), data, args, adapter=AdapterOptions(adapter))


def texts(file):
    rows = [f"the {name} is {name},{name}" for name in ("book", "pan") for _ in range(9)]
    file.write_text("\n".join(["text,label", *rows]) + "\n")


def test_a_batch_that_tears_a_pair_apart(tmp_path):
    with pytest.raises(ValueError, match="batch_size 3` with `--methods contrastive`.*torn apart.*such as 4"):
        compare(tmp_path, rows=3)


def test_views_that_would_be_counted(tmp_path):
    with pytest.raises(ValueError, match="`--views 2` with `--mode classes`.*count as several. Leave it out"):
        compare(tmp_path, views=2)


def test_images_pooled_as_no_head_is_given_them(tmp_path):
    image_folder(tmp_path / "data", ("train",))
    with pytest.raises(ValueError, match="`--mode classes` and images: every method ends in a head.*Leave it out"):
        compare(tmp_path / "out", dataset=str(tmp_path / "data"), pooling="mean")


def test_adapters_of_a_model_that_is_no_checkpoint(tmp_path):
    texts(tmp_path / "train.csv")
    with pytest.raises(ValueError, match="`--adapter` with `--pooling mean`: an adapter names the checkpoint.*Train"):
        compare(tmp_path / "out", dataset=str(tmp_path / "train.csv"), pooling="mean", adapter="lora")


def test_nothing_to_score(tmp_path):
    texts(tmp_path / "train.csv")
    with pytest.raises(ValueError, match="neither a validation nor a test split: nothing could be scored. Name one"):
        compare(tmp_path / "out", dataset=str(tmp_path / "train.csv"))


def test_what_leaves_the_backbone_alone_ends_in_a_linear_head():
    from hf_transfer.few_shot.few_labels import ON_FEATURES

    assert set(ON_FEATURES) <= set(FEW_LABELS) and set(ON_FEATURES.values()) <= set(FOLDABLE)
