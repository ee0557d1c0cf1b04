"""What a user gets wrong: each its own error, before any training."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from tests.recipes.conftest import RECIPES, write_reviews


pytestmark = pytest.mark.usefixtures("no_training")


def lines(file: Path, *rows: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(rows) + "\n")
    return file


# --- data


def test_data_that_are_nowhere(run, tmp_path, text_model):
    with pytest.raises(FileNotFoundError, match="The path `.*nowhere` does not exist; of it, .* does.*Check the"):
        run("finetune", "--model_name_or_path", text_model, "--dataset_name", tmp_path / "nowhere")


def test_no_label_column(run, tmp_path, text_model):
    file = lines(tmp_path / "a.csv", "text,stars", "good,5", "bad,1")
    with pytest.raises(ValueError, match="Split `train` has no label column; its columns are `text`, `stars`"):
        run("finetune", "--model_name_or_path", text_model, "--dataset_name", file)


def test_labels_that_training_has_not_seen(run, tmp_path, text_model):
    write_reviews(tmp_path / "data" / "train.csv", "pan", ["pos", "neg"] * 3)
    write_reviews(tmp_path / "data" / "test.csv", "pan", ["pos", "mixed"])
    with pytest.raises(ValueError, match="Split `test` holds the labels `mixed`, which split `train` has not"):
        run("finetune", "--model_name_or_path", text_model, "--dataset_name", tmp_path / "data")


def test_an_unknown_augmentation(run, images, image_model, capsys):
    with pytest.raises(SystemExit):
        run(*finetune(image_model, images), "--augmentation", "wild")
    assert re.search(r"argument --augmentation: invalid choice: 'wild' \(choose from '?none", capsys.readouterr().err)


def test_augmentation_without_kornia(run, images, image_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r"kornia, which is not installed. Run `pip install .*\[vision\].*--augment"):
        run(*finetune(image_model, images), "--augmentation", "light")


# --- model


def finetune(model: Path | str, data: Path | str) -> tuple:
    return "finetune", "--model_name_or_path", model, "--dataset_name", data


def test_a_text_model_for_images(run, images, text_model):
    with pytest.raises(ValueError, match="of type `bert`, which transformers has no image-classification class for"):
        run(*finetune(text_model, images))


def test_an_image_model_for_text(run, reviews, image_model):
    with pytest.raises(ValueError, match="of type `vit`.*cannot read `text`. Choose a model for text-classification"):
        run(*finetune(image_model, reviews))


def test_a_model_that_is_nowhere(run, tmp_path, reviews):
    with pytest.raises(FileNotFoundError, match="The path `.*nowhere` does not exist: there is no model to start"):
        run(*finetune(tmp_path / "nowhere", reviews))


def test_no_model(run, reviews):
    with pytest.raises(ValueError, match="No model is given: there is nothing to transfer from. Pass"):
        run("finetune", "--dataset_name", reviews)


def test_a_new_text_model_without_a_tokenizer(run, reviews):
    with pytest.raises(ValueError, match="A new `bert` for text has no tokenizer.*with `--tokenizer_name`"):
        run("finetune", "--dataset_name", reviews, "--model_type", "bert")


def test_an_unknown_model_type(run, reviews):
    with pytest.raises(ValueError, match="`brt` is no model type of transformers.*Pass one such as"):
        run("finetune", "--dataset_name", reviews, "--model_type", "brt")


def test_an_unknown_key_of_the_config(run, images):
    with pytest.raises(ValueError, match="The config of `vit` has no hidden: the change would have no effect"):
        run("finetune", "--dataset_name", images, "--model_type", "vit", "--config_overrides", '{"hidden": 8}')


def test_overrides_that_are_no_json(run, images):
    with pytest.raises(ValueError, match="`--config_overrides hidden_size=8` is no JSON object.*double quotes"):
        run("finetune", "--dataset_name", images, "--model_type", "vit", "--config_overrides", "hidden_size=8")


# --- options


def test_a_config_that_does_not_exist(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="`--config .*none.yaml`: there is no such file.*Give a YAML file"):
        run("finetune", "--config", tmp_path / "none.yaml")


def test_an_unknown_key_in_the_yaml(run, tmp_path):
    text = (RECIPES / "finetune.yaml").read_text() + "\nlerning_rate: 0.1\n"
    file = lines(tmp_path / "mine.yaml", text)
    with pytest.raises(ValueError, match="mine.yaml has lerning_rate, which is no option.*`--help`"):
        run("finetune", "--config", file)


def test_an_output_folder_that_cannot_be_made(run, tmp_path, reviews, text_model):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PermissionError, match="`--output_dir .*out` cannot be written to .*Name a folder of your own"):
        run(*finetune(text_model, reviews))


@pytest.mark.parametrize("recipe", ["finetune", "domain_adaptation"])
def test_an_output_folder_below_a_file(run, tmp_path, recipe):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(PermissionError, match=r"cannot be written to \(Not a directory\)"):
        run(recipe, "--config", RECIPES / f"{recipe}.yaml", out="file/out")


def test_more_stages_than_blocks(run, tmp_path, images, image_model):
    with pytest.raises(ValueError, match="stages=4 needs 3 groups of blocks, but the model has .*use stages <= 3"):
        run(*finetune(image_model, images), "--freeze", "gradual")
    assert untouched(tmp_path / "out")


def test_a_learning_rate_for_a_part_that_is_not_there(run, images, image_model):
    with pytest.raises(ValueError, match="`block.7` is no range of blocks of this model"):
        run(*finetune(image_model, images), "--learning_rates", '{"block.7": 0.1}')


def untouched(out: Path) -> bool:
    """Whether nothing is there but folders."""
    return not [path for path in out.rglob("*") if path.is_file()]


def test_more_samples_than_the_smallest_class_has(run, tmp_path, text_model):
    write_reviews(tmp_path / "a.csv", "pan", ["pos", "neg", "pos", "pos", "pos"])
    with pytest.raises(ValueError, match="samples_per_class=3, but class `neg` has 1 rows; .*Pass at most 1, or drop"):
        run(*finetune(text_model, tmp_path / "a.csv"), "--samples_per_class", 3)
    assert untouched(tmp_path / "out")


VALIDATING = {
    "early_stopping": ("--early_stopping_patience", 2),
    "wise_ft": ("--wise_ft",),
    "search": ("--search", 2),
    "greedy_soup": ("--seeds", 2, "--soup", "greedy"),
}


@pytest.mark.parametrize("options", VALIDATING.values(), ids=VALIDATING)
def test_a_validation_split_that_would_lose_a_class(run, tmp_path, text_model, options):
    write_reviews(tmp_path / "a.csv", "pan", ["pos", "neg", "pos", "pos", "pos"])
    with pytest.raises(ValueError, match=r"1 of 2 classes have one row only \(`neg`\), which cannot both.*Add rows"):
        run(*finetune(text_model, tmp_path / "a.csv"), *options)
    assert untouched(tmp_path / "out")


@pytest.mark.parametrize("option", ["--lwf", "--co_tuning"])
def test_a_source_without_a_head(run, tmp_path, reviews, text_model, base_model, option):
    with pytest.raises(ValueError, match="has no classification head .*cannot be read. Give the checkpoint with"):
        run(*finetune(text_model, reviews), "--source_name_or_path", base_model, option, 1)
    assert untouched(tmp_path / "out")


def test_a_checkpoint_with_nothing_in_common(run, tmp_path, reviews, text_model, convolutional_model):
    with pytest.raises(ValueError, match="No tensor of .*convolutional_model.* has a name of the model.*Pass a check"):
        run(*finetune(text_model, reviews), "--transfer_from", convolutional_model)
    assert untouched(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", 0), "`--seeds 0` trains nothing. Give 1 or more"),
        (("--search", -1), "`--search -1` is no number of settings to try. Give 0"),
        (("--soup", "uniform"), "`--soup uniform` with `--seeds 1`: there is one model.*Give 2 seeds or more"),
        (("--seeds", 2, "--push_to_hub"), "`--push_to_hub` with `--seeds 2`: there is a model for each.*Run the one"),
        (("--seeds", 2, "--resume_from_checkpoint", "x"), "`--resume_from_checkpoint` with `--seeds 2`.*`--seed`"),
        (("--mixup", 0.2, "--cutmix", 1), "`--mixup 0.2` with `--cutmix 1.0`: images mixed twice.*Pass one of them"),
        (("--transfer_blocks", 1), "`--transfer_blocks 1` without `--transfer_from`.*Name it, or leave"),
        (("--freeze_batch_norm", "--stoch_norm", 0.5), "`--freeze_batch_norm` with `--stoch_norm 0.5`.*Pass one of"),
        (("--mixup", 0.2), "Mixup needs images: .*Take Mixup out"),
        (("--reinitialize_blocks", 9), "count=9, but the model has 3 blocks.*Give 0 to 3"),
        (("--ema", 2), r"`decay=2.0` is outside \[0, 1\).*Give the share"),
        (("--stoch_norm", 0.5), "has no batch normalisation with running statistics.*Drop it"),
        (("--freeze_batch_norm",), "has no layer with running statistics.*Leave `FreezeBatchNorm` out"),
        (("--class_balanced", 3), r"`beta=3.0` is outside \[0, 1\).*Give a share"),
        (("--mixout", 2), r"`probability=2.0` is outside \[0, 1\).*Give the share"),
    ],
)
def test_methods_that_cannot_be_meant(run, tmp_path, reviews, text_model, options, message):
    with pytest.raises(ValueError, match=message):
        run(*finetune(text_model, reviews), *options)
    assert not (tmp_path / "out").exists() or untouched(tmp_path / "out")


def test_resuming_from_what_is_no_checkpoint(run, tmp_path, reviews, text_model):
    with pytest.raises(ValueError, match="is no checkpoint: it has no trainer_state.json.*Name a folder"):
        run(*finetune(text_model, reviews), "--resume_from_checkpoint", tmp_path)


# --- domains


def test_domains_with_different_label_sets(run, tmp_path, reviews, text_model):
    write_reviews(tmp_path / "a.csv", "pan", ["good", "bad"] * 3)
    with pytest.raises(ValueError, match="different label sets: only the source has `neg`, `pos`, only the target"):
        run(*adapt(text_model, reviews, tmp_path / "a.csv"))


def test_domains_of_different_inputs(run, reviews, text_model, images):
    with pytest.raises(ValueError, match="holds images, but the model came with TokenizersBackend"):
        run(*adapt(text_model, reviews, images))


def test_an_empty_target(run, tmp_path, reviews, text_model):
    file = tmp_path / "empty.parquet"
    Dataset.from_dict({"text": ["good"], "label": ["pos"]}).select([]).to_parquet(file)
    with pytest.raises(ValueError, match="A split of .*empty.* is empty .*nothing can be learned.*Check the files"):
        run(*adapt(text_model, reviews, file))
    with pytest.raises(ValueError, match="A split of .*empty.* is empty .*nothing can be learned.*Check the files"):
        run(*adapt(text_model, reviews, lines(tmp_path / "empty.csv", "text,label")))


def test_a_target_that_is_nowhere(run, tmp_path, reviews, text_model):
    with pytest.raises(FileNotFoundError, match="The path `.*nowhere` does not exist"):
        run(*adapt(text_model, reviews, tmp_path / "nowhere"))


def test_no_target(run, reviews, text_model, capsys):
    with pytest.raises(SystemExit):
        run("domain_adaptation", "--model_name_or_path", text_model, "--source_dataset", reviews)
    assert "the following arguments are required: --target_dataset" in capsys.readouterr().err


def adapt(model: Path, source: Path, target: Path) -> tuple:
    return "domain_adaptation", "--model_name_or_path", model, "--source_dataset", source, "--target_dataset", target


# --- options that do not go together, or mean nothing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--metric_for_best_model", "acuracy"),
            "`--metric_for_best_model acuracy` is reported by no.*Choose from loss",
        ),
        (
            ("--early_stopping_patience", 2, "--save_strategy", "no"),
            "`--early_stopping_patience 2` without a validation",
        ),
        (("--augmentation", "light"), "`--augmentation light` with data for text-classification.*Leave it out"),
        (("--max_length", 0), "`--max_length 0` leaves no token.*positive number"),
        (("--model_type", "bert"), "`--model_type bert` with `--model_name_or_path .*Pass one of them"),
        (("--learning_rates", "{bad}"), "`--learning_rates {bad}` is no JSON object.*double quotes"),
        (("--learning_rate", -1), "learning rate -1.0 of `learning_rate` is negative.*Give zero"),
        (("--freeze", "backbone", "--schedule", "a.yaml"), "`--schedule a.yaml` with `--freeze backbone`.*Pass one"),
    ],
)
def test_options_that_cannot_be_meant(run, reviews, text_model, options, message):
    with pytest.raises(ValueError, match=message):
        run(*finetune(text_model, reviews), *options)


def test_a_pull_to_random_weights(run, images):
    with pytest.raises(ValueError, match="`--l2sp 0.1` with `--model_type resnet`.*random weights. Pass a pretrained"):
        run("finetune", "--model_type", "resnet", "--dataset_name", images, "--l2sp", 0.1)


def test_a_schedule_that_is_nowhere(run, reviews, text_model):
    with pytest.raises(FileNotFoundError, match="`--schedule nowhere.yaml`: there is no such file.*Write one with"):
        run(*finetune(text_model, reviews), "--schedule", "nowhere.yaml")


def test_a_config_that_is_no_yaml(run, tmp_path):
    file = lines(tmp_path / "a.yaml", "dataset_name: [unclosed")
    with pytest.raises(ValueError, match="(?s)a.yaml` is no YAML.*Write one `name: value` a line"):
        run("finetune", f"--config={file}")
