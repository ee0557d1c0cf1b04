"""What the comparison on few labels refuses before it loads anything."""

from __future__ import annotations

import pytest

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.few_shot.arguments import FewShotArguments, FewShotLoopArguments
from hf_transfer.few_shot.few_labels import FewLabelComparison
from hf_transfer.few_shot.heads import FOLDABLE
from hf_transfer.few_shot.methods import FEW_LABELS
from hf_transfer.recipe_arguments import DataArguments, ModelArguments


def compare(tmp_path, *, features: FeatureArguments | None = None, rows: int = 16, dataset: str = "data"):
    recipe = FewShotArguments(dataset, mode="classes", methods=["contrastive"])
    args = FewShotLoopArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=rows)
    return FewLabelComparison(recipe, features or FeatureArguments(), ModelArguments(), DataArguments(), args)


def test_a_batch_that_tears_a_pair_apart(tmp_path):
    with pytest.raises(ValueError, match="batch_size 3` with `--methods contrastive`.*torn apart.*such as 4"):
        compare(tmp_path, rows=3)


@pytest.mark.parametrize("option", [{"pooling": "mean"}, {"views": 2}])
def test_features_that_no_head_is_given(tmp_path, option):
    with pytest.raises(ValueError, match="with `--mode classes`: every method ends in a head.*Leave it out"):
        compare(tmp_path, features=FeatureArguments(**option))


def test_nothing_to_score(tmp_path):
    rows = [f"the {name} is {name},{name}" for name in ("book", "pan") for _ in range(9)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    with pytest.raises(ValueError, match="neither a validation nor a test split: nothing could be scored. Name one"):
        compare(tmp_path / "out", dataset=str(tmp_path / "train.csv"))


def test_what_leaves_the_backbone_alone_ends_in_a_linear_head():
    from hf_transfer.few_shot.few_labels import ON_FEATURES

    assert set(ON_FEATURES) <= set(FEW_LABELS) and set(ON_FEATURES.values()) <= set(FOLDABLE)
