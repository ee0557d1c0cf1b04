"""Contrastive few-shot fine-tuning: pairs of rows first, then a head, and an ordinary classifier at the end."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging

from hf_transfer._heads import output_width
from hf_transfer.anatomy import anatomy
from hf_transfer.arguments import TransferArguments
from hf_transfer.features.extraction.tap_reader import model_inputs
from hf_transfer.features.extraction.taps import pretrained
from hf_transfer.features.probe import STRENGTHS, Probe, fit_head
from hf_transfer.features.probes.folding import linear_head
from hf_transfer.features.probes.head_names import name_classes
from hf_transfer.features.probes.training import no_sklearn
from hf_transfer.few_shot.labels import class_labels
from hf_transfer.modes import modes_put_back
from hf_transfer.objectives.few_shot.pair_similarity import PairSimilarity
from hf_transfer.trainer import TransferTrainer
from hf_transfer.weights.slots import base_of


logger = logging.get_logger(__name__)

RAW_COLUMNS = ("text", "image")
"""Columns of rows that are not prepared yet."""

__all__ = ["contrastive_fine_tune"]


def contrastive_fine_tune(
    model: nn.Module,
    processor: Any,
    dataset: Any,
    *,
    pairs_per_row: int = 10,
    epochs: float = 1.0,
    batch_size: int = 32,
    learning_rate: float = 2e-5,
    seed: int = 0,
    args: TrainingArguments | None = None,
    max_length: int | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    callbacks: Sequence[TrainerCallback] = (),
) -> Probe:
    r"""
    Fine-tune a classifier on a few rows of each class by their pairs, then fit its head (SetFit).

    First the model is trained with [`PairSimilarity`] in place of its task loss: features of one class become alike,
    those of others not. Then a logistic regression on the features of the rows is written into its head by
    [`fit_head`]. The model is changed in place and stays what it was: an `AutoModelForSequenceClassification` or
    `AutoModelForImageClassification` that is saved, pushed and opened as any other.

    Args:
        model (`nn.Module`):
            A classifier of `transformers` with a linear head, also under PEFT with the head in `modules_to_save`. Of
            a sentence encoder the one that [`sentence_classifier`] makes, which averages tokens as the encoder was
            trained to: BERT's own reads the first through a pooler. It is left on the device it was trained on.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`):
            The model's own.
        dataset (`datasets.Dataset`):
            Rows with `text` (and `text_pair`) or `image`, and `label`; or as [`prepare`] makes them. Rows of -100 are
            left out.
        pairs_per_row (`int`, *optional*, defaults to 10):
            Pairs of an epoch for each row, half of them of one class. The paper draws 20 of either kind for each
            class, which is 5 a row for 8 rows of each class.
        epochs (`float`, *optional*, defaults to 1.0):
            Passes of `pairs_per_row` times as many pairs as rows; no pair comes twice before all were seen.
        batch_size (`int`, *optional*, defaults to 32):
            Rows of a batch, two for each pair; even.
        learning_rate (`float`, *optional*, defaults to 2e-5):
            Of the first phase, after a tenth of warm-up.
        seed (`int`, *optional*, defaults to 0):
            Of pairs, dropout and the folds of the regression.
        args (`TrainingArguments`, *optional*):
            All options of the loop, in place of the four above.
        max_length (`int`, *optional*):
            Longest text in tokens, as in [`prepare`].
        augment (`Callable`, *optional*):
            Maps processed images to the same shape at random, for the first phase.
        strengths (`Sequence[float]`, *optional*):
            Inverse regularisation strengths of the head to choose from.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            Further callbacks of the first phase.

    Returns:
        `Probe`: the regression that is now the head, with its strength and held-out scores.

    Deviations from the paper:
        The head is inside the model, and so is the pooling. Pairs are without repeats, and no row is paired with
        itself.

    Raises:
        ValueError: if the head cannot hold the classes or a regression, or the rows make no pairs of both kinds;
            before anything is trained.
        ImportError: if scikit-learn is not installed.

    Relations:
        [`sentence_classifier`] makes the model of a sentence encoder. [`head_from_class_names`] needs no rows.
        `fit_head` is the second phase alone, on frozen features: compare with it, as a sentence encoder may be as
        good without the first.

    Example:
        >>> import io
        >>> from contextlib import redirect_stdout
        >>> from datasets import Dataset
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"[PAD]": 0, "cat": 1, "dog": 2}, unk_token="[PAD]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_max_length=8)
        >>> config = BertConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> dataset = Dataset.from_dict({"text": ["cat cat", "dog", "cat", "dog dog"], "label": [0, 1, 0, 1]})
        >>> with redirect_stdout(io.StringIO()):  # the Trainer prints its log
        ...     probe = contrastive_fine_tune(model, tokenizer, dataset, pairs_per_row=2)
        >>> probe.rows, probe.classes
        (4, 2)

    Paper: Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022, https://huggingface.co/papers/2209.11055
    """
    if find_spec("sklearn") is None:
        raise no_sklearn()
    names = _check(model, dataset)
    from hf_transfer.data.preparation import collator_for, prepare

    collate = _Collator(collator_for(processor), frozenset({*model_inputs(pretrained(model)), "labels", "label"}))
    plain = training = dataset
    if any(name in getattr(dataset, "column_names", ()) for name in RAW_COLUMNS):
        plain = prepare(dataset, processor, max_length=max_length)
        training = plain if augment is None else prepare(dataset, processor, max_length=max_length, augment=augment)
    with tempfile.TemporaryDirectory() as folder, modes_put_back(model):
        loop = (
            copy.copy(args)
            if args is not None
            else TransferArguments(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=batch_size,
                learning_rate=learning_rate,
                warmup_steps=0.1,
                seed=seed,
                save_strategy="no",
                logging_strategy="epoch",
                report_to="none",
                dataloader_pin_memory=torch.cuda.is_available(),
            )
        )
        # The collator leaves out what the model does not read; the Trainer would take the images of lazy rows too.
        loop.remove_unused_columns = False
        trainer = TransferTrainer(
            cast(Any, model),
            loop,
            train_dataset=cast(Any, training),
            data_collator=collate,
            objectives=[PairSimilarity(pairs_per_row=pairs_per_row)],
            callbacks=list(callbacks),
        )
        try:
            trainer.train()
        finally:
            assert trainer.attachment is not None
            trainer.attachment.detach()
        batches = DataLoader(cast(Any, plain), batch_size=loop.per_device_train_batch_size, collate_fn=collate)
        probe = replace(fit_head(model, batches, strengths=strengths, seed=loop.seed), label_names=names)
    name_classes(probe, output_width(model, anatomy(model).head), getattr(base_of(model), "config", None))
    logger.info(f"The head is a logistic regression on {probe.rows} rows, of strength {probe.strength}.")
    return probe


def _check(model: nn.Module, dataset: Any) -> tuple[str, ...]:
    """Names of the classes, after what the second phase would refuse."""
    linear_head(model, None)
    if _named(dataset):
        raise ValueError(
            "The labels of the data are names, and the model is trained on numbers: which class is which output is "
            'not known. Encode them first: `dataset.class_encode_column("label")`.'
        )
    labels, names = class_labels(dataset)
    outputs, classes = output_width(model, anatomy(model).head), int(labels.max()) + 1
    if classes > outputs or (names and len(names) != outputs):
        raise ValueError(
            f"The data have {len(names) or classes} classes, the head of the model has {outputs} outputs: the "
            f"regression would not fit into it. Load the model with `num_labels={len(names) or classes}`."
        )
    return names


def _named(dataset: Any) -> bool:
    feature = next((dataset.features[name] for name in ("labels", "label") if name in dataset.column_names), None)
    return getattr(feature, "dtype", "") in ("string", "large_string")


@dataclass(frozen=True)
class _Collator:
    """A collator for rows with columns that the model does not read. Pickled into workers, hence a class."""

    collate: Callable[[list[dict[str, Any]]], Any]
    known: frozenset[str]

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        return self.collate([{name: value for name, value in row.items() if name in self.known} for row in rows])
