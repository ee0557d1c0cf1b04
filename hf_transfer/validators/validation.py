"""`validate_without_labels`: how good a model is on a target without labels, by several estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from accelerate.utils import extract_model_from_parallel
from torch import nn
from typing_extensions import Unpack

from hf_transfer.features.extraction.ranks import Ranks
from hf_transfer.modes import undisturbed
from hf_transfer.validators.checks import (
    check_dataset,
    check_labels,
    check_model,
    check_numbers,
    check_validators,
    inputs_only,
)
from hf_transfer.validators.reading import Reader, ReadingKwargs
from hf_transfer.validators.scores import (
    NEEDS_SOURCE,
    NEEDS_TRAIN_SOURCE,
    ORACLE_NAMES,
    Evidence,
    oracle_scores,
    scores_of,
)


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Validation", "validate_without_labels"]


def validate_without_labels(
    model: nn.Module,
    source_eval: Dataset | None,
    target: Dataset,
    *,
    train_source: Dataset | None = None,
    oracle: Dataset | None = None,
    validators: Sequence[str] | None = None,
    processor: Any = None,
    data_collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    max_rows: int = 2000,
    seed: int = 0,
    head: str | None = None,
) -> dict[str, float]:
    r"""
    Score a model on a target without labels, by each of several validators. **Higher is better for all of them.**

    - `iwv`: minus the importance-weighted error on held-out source rows. Needs `source_eval` and `train_source`.
    - `dev`: deep embedded validation, the same with a control variate that lowers its variance.
    - `entropy`: minus the mean entropy of the predictions on the target, in nats.
    - `information_maximization`: the entropy of the mean prediction minus that mean entropy, in nats.
    - `snd`: soft neighbourhood density, the mean entropy of each target row's similarities to the others, in nats.
    - `reverse`: accuracy on `source_eval` of a linear probe fitted to the target with the model's predictions as
      labels. Needs `source_eval`.
    - `mixval`: how often the prediction for a mixture of two target rows is that of the larger part.
    - `oracle_accuracy`, `oracle_macro_f1`: on the labels of `oracle`, if given. No validator: for comparison.

    Density ratios of the first two are those of a domain classifier on the model's features. Errors are 0 or 1.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, also under PEFT, DDP or `torch.compile`. Its mode, its gradients and the
            global random generators are left as they are.
        source_eval (`datasets.Dataset` or `None`):
            Labelled rows of the source that the model was not trained on.
        target (`datasets.Dataset`):
            Rows of the target. Columns of labels are taken off first.
        train_source (`datasets.Dataset`, *optional*):
            Rows of the source that the model was trained on; their labels are not read.
        oracle (`datasets.Dataset`, *optional*):
            Rows of the target with labels, all of which are read.
        validators (`Sequence[str]`, *optional*):
            Names out of the list above; by default all for which there is data.
        processor (`Any`, *optional*):
            The model's own, for raw columns.
        data_collator (`Callable`, *optional*):
            Makes a batch of a list of rows, in place of the padding here.
        max_length (`int`, *optional*):
            Longest text in tokens, for raw text.
        batch_size (`int`, *optional*, defaults to 32):
            Most rows per forward.
        max_rows (`int`, *optional*, defaults to 2000):
            Most rows of each data set but `oracle`, drawn once by `seed`; for token classification most tokens too.
        seed (`int`, *optional*, defaults to 0):
            Of the rows that are drawn and mixed.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Shape:
        - returns a score by name, in the order above. Ranks of a distributed run compute the same and return what the
          first found.

    Degenerate batches:
        A target that the model puts into one class has `mixval` of at most 1/2 and lets `reverse` predict that class.
        Where a feature or logit is not finite every score is `nan`, which no choice takes.

    Deviations from the papers:
        Reverse validation trains a new adapted model from the target back to the source; here it is a logistic
        regression on the features of this one, so that it costs no training. MixVal mixes inputs: so it is done here
        for images. Other inputs cannot be mixed, so that features are, before the linear head: a mixture of two rows
        of one class is of that class then, and only mixtures of two classes count. Of a token classifier each token is
        a row, on the target every token that is not padding.

    Raises:
        TypeError: if a data set is no `datasets.Dataset`.
        ValueError: if a validator is unknown or lacks its data; if `source_eval` or `oracle` has no labels; if the
            model is a regression or has several labels a row; if a number is out of range.
        ImportError: if scikit-learn is not installed, for `iwv`, `dev` and `reverse`.

    Relations:
        [`TargetValidation`] does this at each evaluation of a Trainer, and [`choose`] compares several models. A model
        that is sure and wrong has high `entropy` and `snd`, as methods that minimise entropy may make it; `iwv` and
        `dev` need a source that covers the target: where the two can be told apart by their features all weights, and
        `iwv` with them, are close to 0.

    Example:
        >>> from datasets import Dataset
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> target = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5], [6, 7]]})
        >>> list(validate_without_labels(model, None, target))
        ['entropy', 'information_maximization', 'snd', 'mixval']
    """
    validation = Validation(
        source=source_eval,
        target=target,
        train_source=train_source,
        oracle=oracle,
        validators=validators,
        processor=processor,
        data_collator=data_collator,
        max_length=max_length,
        batch_size=batch_size,
        max_rows=max_rows,
        seed=seed,
        head=head,
    )
    return validation.scores(model)


class Validation:
    """
    The data and the validators, checked; scores any number of models.

    Args:
        source (`datasets.Dataset`, *optional*): labelled source rows.
        target (`datasets.Dataset`): rows of the target, whose labels are taken off here.
        train_source (`datasets.Dataset`, *optional*): source rows of the training.
        oracle (`datasets.Dataset`, *optional*): labelled rows of the target.
        validators (`Sequence[str]`, *optional*): names.
        max_rows (`int`): most rows of a data set.
        **reading: options of [`Reader`].

    Raises:
        TypeError: if a data set is no `datasets.Dataset`.
        ValueError: if a validator is unknown or lacks its data; if `source` or `oracle` has no labels.
    """

    def __init__(
        self,
        *,
        source: Dataset | None,
        target: Dataset,
        train_source: Dataset | None,
        oracle: Dataset | None,
        validators: Sequence[str] | None,
        **reading: Unpack[ReadingKwargs],
    ):
        given = {"source": source, "target": target, "train_source": train_source, "oracle": oracle}
        for name, dataset in given.items():
            if dataset is not None or name == "target":
                check_dataset(dataset, name)
        check_numbers(batch_size=reading["batch_size"], max_rows=reading["max_rows"])
        self.validators = check_validators(
            validators, source=source is not None, train_source=train_source is not None
        )
        needs_source = any(name in NEEDS_SOURCE for name in self.validators)
        needs_train_source = any(name in NEEDS_TRAIN_SOURCE for name in self.validators)
        for name in ("source", "oracle"):
            if given[name] is not None:
                check_labels(given[name], name)
        self._source = source if needs_source else None
        self._target = inputs_only(target, "target")
        self._train_source = inputs_only(train_source, "train_source") if train_source and needs_train_source else None
        self._oracle = oracle
        self._reading = reading

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scores, in their order."""
        return (*self.validators, *(ORACLE_NAMES if self._oracle is not None else ()))

    def scores(self, model: nn.Module, *, processor: Any = None) -> dict[str, float]:
        """
        The score by each validator, then those of the oracle.

        Args:
            model (`nn.Module`): any classifier of `transformers`, also wrapped.
            processor (`Any`, *optional*): its processor, where none was given before.

        Raises:
            ValueError: if the model is a regression or has several labels a row.
        """
        model = extract_model_from_parallel(model, keep_torch_compile=False)
        check_model(model)
        reading = {**self._reading, "processor": self._reading["processor"] or processor}
        with undisturbed(model), Reader(model, **reading) as reader:
            evidence = Evidence(
                target=reader.read(self._target, mix="mixval" in self.validators),
                source=None if self._source is None else reader.read(self._source, labelled=True),
                train_source=None if self._train_source is None else reader.read(self._train_source),
                seed=reading["seed"],
            )
            scores = scores_of(self.validators, evidence)
            if self._oracle is not None:
                scores |= oracle_scores(reader.read(self._oracle, labelled=True, everything=True))
        # every rank has run the same rows, as sharded weights need; one decides, since rounding may differ
        return Ranks().from_main(lambda: scores)
