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
from transformers import PreTrainedModel

from hf_transfer import Objective, TransferBatch, attach
from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.tap import HeadTap
from tests.architectures import ARCHITECTURES, Architecture, architecture
from tests.small_architectures import (
    NOT_RUN,
    TOKENS,
    VOCABULARY,
    WITHOUT_LOSS,
    batch_for,
    labels_for,
    small_model,
)
from tests.test_anatomy import NAMED_HEADS


CLASSIFIERS = [one for one in ARCHITECTURES if not one.task.startswith("TIME_SERIES")]


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
