"""`rank_models`: candidates for a source model in the order in which they suit a target, before any fine-tuning."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils import logging

from hf_transfer.compare.execution.failures import reason_of
from hf_transfer.features.cache.digests import data_digest, processor_digest, weights_digest
from hf_transfer.features.extraction.ranks import Ranks
from hf_transfer.selection.candidates import Candidate, load_candidate, named_candidates
from hf_transfer.selection.costs import estimate_cost
from hf_transfer.selection.held_out import KNN, PROBE, best_layer, held_out, majority
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.ranking import SourceRanking
from hf_transfer.selection.raw_inputs import raw_features
from hf_transfer.selection.reading import LAYERS, CandidateRows, read_candidate
from hf_transfer.selection.recommending import MAJORITY, RAW
from hf_transfer.selection.scores import FORMULAS, Score, check_scores, formula_scores
from hf_transfer.selection.storing import Store
from hf_transfer.selection.target import TargetRows, read_target


logger = logging.get_logger(__name__)

PROBES = ("ridge", "logistic")
_POOLINGS = ("mean", "cls", "last")

__all__ = ["PROBES", "rank_models"]


def rank_models(
    models: Any,
    dataset: Any,
    *,
    scores: Sequence[str] | None = None,
    by: str = PROBE,
    layers: str = "head",
    pooling: str | None = None,
    probe: str = "ridge",
    max_rows: int | None = 5000,
    folds: int = 5,
    bootstrap: int = 20,
    bootstrap_rows: int = 500,
    baselines: bool = True,
    epochs: float = 3.0,
    seed: int = 0,
    batch_size: int = 32,
    max_length: int | None = None,
    dtype: str = "float32",
    device: Any = None,
    cache_dir: Any = None,
    output_dir: str | os.PathLike[str] | None = None,
    dataset_config: str | None = None,
    split: str = "train",
    label_column: str | None = None,
    input_columns: Any = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> SourceRanking:
    """
    Rank models as sources for a target data set, without fine-tuning any.

    Every candidate reads the same labelled rows once; its features are cached, and all scores are computed from them:
    a linear probe and k-NN on held-out rows, and the scores in closed form of `SCORES`. Beside them stand the number
    of parameters (on published benchmarks a list ordered by size predicts more than most scores), what the inputs
    carry without any model, and costs. Candidates that fail are rows with the reason. All scores of a candidate,
    intervals included, take less time than its pass: on one core and 3,561 photographs 80 s of pass and 29 s of scores
    for MobileNetV2 0.35 (1,280 features), 20 s and 9 s for MobileNetV1 0.25 (256).

    Args:
        models (sequence or mapping):
            Candidates: Hub ids, folders, embedded names such as `embedded:image`, or pairs `(model, processor)` whose
            head counts as trained. `name#random` is the same architecture with random weights, `name#reinit:2` the
            checkpoint with its two top blocks and neck drawn anew: controls that should lose. In a mapping, by names
            of your own.
        dataset (`str`, path, `datasets.Dataset` or `TransferData`):
            The target: images, texts, tokens or sound with a class each, or texts and images with a real value. Of
            several splits only `split` is read.
        scores (`Sequence[str]`, *optional*):
            Of `probe`, `knn`, `logme`, `leep`, `nleep`, `nce`, `h_score`, `transrate`, `gbc`, `parc`, `sfda`, `etran`;
            all by default. The first two are always computed.
        by (`str`, *optional*, defaults to `"probe"`):
            The score that decides.
        layers (`str`, *optional*, defaults to `"head"`):
            Features: `"head"`, what the head is given; `"mean"`, the average of all blocks, each standardised;
            `"best"`, the layer whose ridge probe is best (for probe and k-NN chosen without the rows held out).
        pooling (`str`, *optional*):
            `mean`, `cls` or `last`: how the tokens or patches of a block become one vector, without padding. With
            `layers="head"` the features are then the output of the last block, pooled so. By default the model's own
            for its head, and `mean` for blocks.
        probe (`str`, *optional*, defaults to `"ridge"`):
            `ridge` regression, in closed form, or `logistic`, which takes many times as long.
        max_rows (`int`, *optional*, defaults to 5000):
            Most rows, drawn by `seed` with at least two of every class; of tokens most words, drawn by sentence.
        folds (`int`, *optional*, defaults to 5):
            In which rows are held out from probe and k-NN.
        bootstrap (`int`, *optional*, defaults to 20):
            Random parts of the rows for the intervals of the other scores; 0 for none.
        bootstrap_rows (`int`, *optional*, defaults to 500):
            Most rows of a part, which is at most 80% of all.
        baselines (`bool`, *optional*, defaults to `True`):
            Whether to score the majority class and a probe on raw inputs too, to tell whether transfer helps.
        epochs (`float`, *optional*, defaults to 3.0):
            Of the fine-tuning whose time is estimated.
        seed (`int`, *optional*, defaults to 0):
            Of rows, folds, parts and controls.
        batch_size, max_length, dtype, cache_dir, progress:
            As for [`extract_features`].
        device (`str` or `torch.device`, *optional*):
            Where models are put; by default an accelerator if there is one. Pairs stay where they are.
        output_dir (`str` or path, *optional*):
            Where finished candidates are kept, in `results.json`: those whose weights, rows and settings are the same
            are not scored again.
        dataset_config, split, label_column, input_columns:
            Of the data set, as for [`load_splits`].
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code from the candidates' repositories.

    Returns:
        [`SourceRanking`]: `.best()`, `.frame`, `.plot(path)`, `.save(folder)`, `.agreement(truth)`.

    Degenerate cases:
        Intervals are over these rows: they say nothing of how well a score predicts fine-tuning. Probe and k-NN: a
        bootstrap over held-out rows (of tokens over sentences), without a new fit. Other scores: [`formula_scores`].
        ETran is scaled over the candidates, and not defined for one. SFDA and ETran of classes are not telling with
        fewer rows than columns and classes, and then have no value. NLEEP is too high with few rows of a class.

    Raises:
        TypeError: if a candidate or the data set is none.
        ValueError: if an option is unknown or out of range, or the data has no labels or too few rows.

    Relations:
        [`compare`] trains candidates; rank first, then train those that are too close to call. [`domain_distance`]
        tells how far source data is from the target.

    Example:
        >>> import tempfile
        >>> from datasets import ClassLabel, Dataset
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> data = Dataset.from_dict({"text": ["a", "b"] * 20, "label": [0, 1] * 20})
        >>> def tokenizer(texts, **options):  # a real one: `AutoTokenizer.from_pretrained(...)`
        ...     raise NotImplementedError
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ranking = rank_models({"mine": (BertForSequenceClassification(config), tokenizer)}, data,
        ...                           cache_dir=folder, progress=False)
        >>> ranking.candidates[0].scored
        False

    Paper: Bolya et al., "Scalable Diverse Model Selection for Accessible Transfer Learning", NeurIPS 2021,
    https://huggingface.co/papers/2111.06977; Renggli et al., "Which Model to Transfer? Finding the Needle in the
    Growing Haystack", CVPR 2022, https://huggingface.co/papers/2010.06402
    """
    names = check_scores(scores, by)
    _check(layers, pooling, probe, bootstrap, bootstrap_rows, epochs)
    candidates = named_candidates(models)
    target = read_target(
        dataset,
        max_rows=max_rows,
        folds=folds,
        draws=bootstrap,
        draw_rows=bootstrap_rows,
        seed=seed,
        config=dataset_config,
        split=split,
        label_column=label_column,
        input_columns=input_columns,
    )
    settings = {
        "task": target.data.task,
        "kind": target.kind,
        "metric": target.metric,
        "data": data_digest(target.rows, tuple(target.rows.column_names)),
        "rows": len(target),
        "available": target.available,
        "rows_per_class": target.rows_per_class,
        "scores": list(names),
        "by": by,
        "layers": layers if pooling is None else f"{layers}, {pooling} pooling",
        "probe": probe,
        "folds": folds,
        "parts": [len(draw) for draw in target.draws],
        "epochs": epochs,
        "seed": seed,
        "max_length": max_length,
        "dtype": dtype,
    }
    store = Store(output_dir, settings, write=Ranks().is_main)
    found = []
    for number, candidate in enumerate(candidates):
        logger.info(f"Candidate {number + 1} of {len(candidates)}: {candidate.name}")
        scorer = _Scorer(target, names, probe, layers, epochs, seed, store)
        extraction = {"batch_size": batch_size, "max_length": max_length, "dtype": dtype, "cache_dir": cache_dir}
        options = {"pooling": pooling, "progress": progress, **extraction}
        found.append(scorer.outcome(candidate, device, trust_remote_code, options))
        _free()
    if baselines:
        found += _baselines(target, store)
    return SourceRanking(tuple(found), settings, by)


class _Scorer:
    """One candidate after another on the same rows."""

    def __init__(
        self, target: TargetRows, names: Sequence[str], probe: str, layers: str, epochs: float, seed: int, store: Store
    ):
        self.target, self.names, self.probe, self.layers = target, names, probe, layers
        self.epochs, self.seed, self.store = epochs, seed, store

    def outcome(self, candidate: Candidate, device: Any, trust_remote_code: bool, options: dict[str, Any]) -> Outcome:
        """Its scores, from before if nothing changed; or why it has none."""
        try:
            return self._outcome(candidate, device, trust_remote_code, options)
        except Exception as error:  # whatever is wrong with one candidate, the others go on
            logger.warning(f"{candidate.name} fails: {error}")
            made = Outcome(candidate.name, reason=reason_of(error))
            self.store.add(made)
            return made

    def _outcome(self, candidate: Candidate, device: Any, trust_remote_code: bool, options: dict[str, Any]) -> Outcome:
        loaded = load_candidate(candidate, self.target.data, seed=self.seed, trust_remote_code=trust_remote_code)
        model: Any = loaded.model
        # the digest before the model moves: it is the same on every device
        digest = f"{weights_digest(model)} {processor_digest(loaded.processor)} {candidate.control}"
        kept = self.store.found(candidate.name, digest)
        if kept is not None:
            logger.info(f"{candidate.name} is scored already: it is taken from {self.store.path}.")
            return kept
        if candidate.pair is None:
            model.to(_device(device))
        rows = read_candidate(loaded, self.target, layers=self.layers, **options)
        made = self._scored(candidate, digest, model, rows)
        self.store.add(made)
        return made

    def _scored(self, candidate: Candidate, digest: str, model: Any, rows: CandidateRows) -> Outcome:
        target, started = self.target, time.perf_counter()
        predicted, found = {}, {}
        for name, kind in ((PROBE, self.probe), (KNN, KNN)):
            if name == PROBE and target.kind == "regression":
                kind = "ridge"
            began = time.perf_counter()
            predicted[name] = held_out(kind, target, rows.layers, rows.labels, rows.examples)
            found[name] = Score(predicted[name].mean, seconds=time.perf_counter() - began)
        layer = next(iter(rows.layers))
        if len(rows.layers) > 1:
            layer = best_layer(target, rows.layers, rows.labels, rows.examples)
        features = rows.layers[layer]
        wanted = [name for name in self.names if name in FORMULAS]
        found |= formula_scores(rows, features, target, wanted, seed=self.seed)
        seconds = time.perf_counter() - started
        cost = estimate_cost(
            model,
            width=features.shape[1],
            outputs=target.data.num_labels,
            rows=target.available,
            epochs=self.epochs,
            computed=rows.computed,
            seconds=rows.seconds,
        )
        return Outcome(
            candidate.name,
            digest,
            scores=found,
            rows=predicted,
            cost=cost,
            width=features.shape[1],
            layer=layer,
            seconds={"pass": rows.seconds, "scores": seconds},
            notes=rows.notes,
        )


def _baselines(target: TargetRows, store: Store) -> list[Outcome]:
    """The majority class, and a linear probe on the inputs as they are."""
    kept = [store.found(name, name) for name in (MAJORITY, RAW)]
    if all(own is not None for own in kept):
        return [own for own in kept if own is not None]
    features, labels, examples = raw_features(target)
    made = []
    for name, rows in (
        (MAJORITY, majority(target, labels, examples)),
        (RAW, held_out("ridge", target, {RAW: features}, labels, examples)),
    ):
        own = Outcome(name, name, scores={PROBE: Score(rows.mean)}, rows={PROBE: rows}, layer="inputs")
        store.add(own)
        made.append(own)
    return made


def _check(layers: str, pooling: str | None, probe: str, draws: int, draw_rows: int, epochs: float) -> None:
    known = {"layers": (layers, LAYERS), "probe": (probe, PROBES), "pooling": (pooling, (None, *_POOLINGS))}
    for name, (value, choices) in known.items():
        if value not in choices:
            raise ValueError(
                f'`{name}="{value}"` is unknown: it is not said what candidates are judged by. Choose from '
                f"{', '.join(str(own) for own in choices)}."
            )
    if draws < 0 or draw_rows < 10 or epochs <= 0:
        raise ValueError(
            f"`bootstrap={draws}`, `bootstrap_rows={draw_rows}` and `epochs={epochs:g}`: intervals or costs could not "
            "be computed. Give 0 or more parts, of at least 10 rows, and a positive number of epochs."
        )


def _device(device: Any) -> torch.device:
    if device is not None:
        return torch.device(device)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if found is None else found


def _free() -> None:
    """Give back what the last candidate took."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
