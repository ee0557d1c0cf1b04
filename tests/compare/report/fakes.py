"""Results as comparisons find them, without any training."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from hf_transfer.compare.answer import (
    Answer,
    ClassVerdict,
    CurvePoint,
    Difference,
    Estimate,
    Outlook,
    Recommendation,
    TableRow,
    Verdict,
)
from hf_transfer.compare.cells import CellKey, CellResult, Costs
from hf_transfer.compare.outcome import ComparisonResults, FeatureMap, Mistake


SCRIPT = "<script>alert(1)</script>"
ARABIC, EMOJI = "هذا الفيلم رائع حقا", "so good 🎉👩‍👩‍👧 $x_1$ & more"
STRATEGIES = {
    "majority": {"title": "Majority class", "about": "Always answers the most frequent class.", "baseline": True},
    "scratch": {"title": "From scratch", "about": "Trains the same architecture without transfer.", "baseline": True},
    "probe": {"title": "Probe", "about": "Fits a linear classifier to what the pretrained model computes."},
    "full": {"title": "Full fine-tuning", "about": "Trains all weights of the pretrained model."},
    "gradual": {
        "title": "Gradual unfreezing",
        "about": "Trains the head first and thaws the layers below it in stages.",
        "paper": "https://huggingface.co/papers/1801.06146",
    },
    "l2sp": {"title": "L2-SP", "about": "Pulls all weights back towards the pretrained ones."},
    "lora": {
        "title": "LoRA",
        "about": "Trains small matrices beside the pretrained weights.",
        "paper": "https://huggingface.co/papers/2106.09685",
    },
    "lp_ft": {"title": "Probe, then fine-tuning", "about": "Starts with the head that the probe found."},
}
SCORES = {
    "majority": 0.21,
    "scratch": 0.4372893,
    "probe": 0.8512345678901234,
    "full": 0.9123456789,
    "gradual": 0.907,
    "l2sp": 0.899,
    "lora": 0.9101,
    "lp_ft": 0.0,
}
SECONDS = {"majority": 0.0, "scratch": 41.2, "probe": 2.345, "full": 43.9, "gradual": 38.0, "l2sp": 47.5, "lora": 29.3}


def row(model: str, strategy: str, number: int = 0, **changes) -> TableRow:
    mean = SCORES[strategy] - 0.013 * number
    best = SCORES["full"]
    costs = Costs(
        SECONDS.get(strategy, 30.0) * (1 + number),
        None if strategy == "majority" else 412_345_678 + 1000 * number,
        {"majority": 0, "probe": 6405, "lora": 73_221}.get(strategy, 3_538_984),
        3_538_984,
        {"majority": None, "lora": 311_234}.get(strategy, 14_234_567),
        None if strategy == "majority" else 3.1415926 + number,
    )
    given = {
        "seeds": [0, 1, 2],
        "validation": Estimate(mean, mean - 0.021, mean + 0.0192),
        "test": Estimate(mean - 0.01, mean - 0.027, mean + 0.011),
        "against_best": Difference(mean - best, mean - best - 0.011, mean - best + 0.012),
        "against_scratch": Difference(mean - SCORES["scratch"], mean - 0.49, mean - 0.39),
        "tied": mean >= 0.9,
        "costs": costs,
        "command": f"accelerate launch recipes/compare.py --model_name_or_path {model} --dataset_name 'my data' "
        f"--seeds 3 --strategies {strategy} --curve false",
        "note": "" if strategy in ("majority", "probe") else "learning rate 0.0005",
    }
    return TableRow(model, strategy, **{"status": "finished", **given, **changes})


def failed(model: str, strategy: str, status: str = "failed", reason: str = "out of memory at batch size 32"):
    nothing = dict.fromkeys(("validation", "test", "against_best", "against_scratch"))
    return row(model, strategy, status=status, reason=reason, seeds=[], tied=False, costs=Costs(), **nothing)


def picture(shade: int = 128) -> str:
    pixels = np.random.default_rng(shade).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def features(classes: int, rows: int = 200, *, changed: bool = True) -> FeatureMap:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, classes, rows)
    centres = draws.normal(size=(classes, 2)) * 4
    before = centres[labels] * 0.4 + draws.normal(size=(rows, 2)) * 1.5
    after = centres[labels] + draws.normal(size=(rows, 2))
    return FeatureMap(before.tolist(), after.tolist() if changed else None, labels.tolist(), "PCA")


def confusion(classes: int, rows: int = 300) -> list[list[int]]:
    draws = np.random.default_rng(1)
    counts = np.eye(classes, dtype=int) * (rows // classes)
    for _ in range(rows // 8):
        counts[draws.integers(classes), draws.integers(classes)] += 1
    return counts.tolist()


def images() -> ComparisonResults:
    """Two models, five classes, ties, a failed and a skipped row."""
    models = ["google/mobilenet_v2_1.0_224", "microsoft/resnet-18"]
    rows = [row(models[0], name) for name in SCORES if name != "lp_ft"]
    rows += [failed(models[0], "lp_ft")]
    rows += [row(models[1], name, 1) for name in SCORES if name not in ("gradual", "lp_ft")]
    rows += [failed(models[1], "gradual", "skipped", "the budget ended"), failed(models[1], "lp_ft")]
    rows[13] = row(models[1], "lora", 1, seeds=[0], validation=Estimate(0.85), test=Estimate(0.84), against_best=None)
    names = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    chosen = Recommendation(
        models[0],
        "lora",
        "LoRA on google/mobilenet_v2_1.0_224 cannot be told from the best mean (full fine-tuning) and keeps 45 times "
        "fewer weights per task.",
        (models[0], "full"),
        [(models[0], "gradual")],
    )
    classes = [
        ClassVerdict(name, 20 + number, Difference(gain, gain - 0.1, gain + 0.08), said)
        for number, (name, gain, said) in enumerate(
            zip(
                names,
                [0.31, 0.42, 0.05, 0.47, -0.2],
                [*["positive"] * 2, "undecided", "positive", "negative"],
                strict=True,
            )
        )
    ]
    verdict = Verdict(
        "positive",
        "Transfer helps: the best strategy that starts from the pretrained model is 0.475 above scratch.",
        Difference(0.475, 0.43, 0.52),
        Difference(0.702, 0.66, 0.74),
        classes,
    )
    curve = [
        CurvePoint(models[0], name, share, int(400 * share), Estimate(mean, mean - 0.03, mean + 0.02))
        for name, means in {"lora": (0.71, 0.83, 0.9101), "full": (0.62, 0.81, 0.9123456789)}.items()
        for share, mean in zip((0.25, 0.5, 1.0), means, strict=True)
    ]
    outlook = Outlook(
        "Twice the labels would likely add 0.02 to 0.05: the curve still rises.",
        "Another strategy would likely add nothing: the four best are tied.",
    )
    return ComparisonResults(
        task="image-classification",
        metric="accuracy",
        label_names=names,
        data={"name": "tf_flowers", "rows": {"train": 400, "validation": 100, "test": 200}, "validation": "a split"},
        settings={"steps": 250, "batch_size": 16, "seeds": 3, "learning_rate": {"whole": 0.0005, "adapter": 0.005}},
        answer=Answer(rows, chosen, verdict, curve, outlook),
        cells=[CellResult(CellKey(models[0], "lora", 0), "f", scores={"validation_accuracy": 0.91})],
        strategies=STRATEGIES,
        confusion=confusion(5),
        mistakes=[
            Mistake(number, names[number % 5], names[(number + 1) % 5], 0.98 - number / 50, None, picture(number))
            for number in range(12)
        ],
        features=features(5),
        seconds=1234.5,
        environment={"hf_transfer": "0.1.0", "torch": "2.13.0", "device": "cpu, 2 cores"},
        command="accelerate launch recipes/compare.py --dataset_name 'my data' --seeds 3",
    )


def texts() -> ComparisonResults:
    """77 classes, hostile and foreign texts everywhere, one seed without intervals, no recommendation but negative."""
    found = images()
    model = f"org/{SCRIPT}"
    names = [f"intent_{number}_of_a_customer" for number in range(74)] + [SCRIPT, ARABIC, EMOJI]
    rows = [
        row(model, name, seeds=[0], validation=Estimate(SCORES[name]), test=None, tied=False, against_best=None)
        for name in ("majority", "scratch", "probe", "full")
    ]
    rows += [failed(model, "lora", reason=f"ValueError: {SCRIPT} & {ARABIC} | pipe `tick`")]
    classes = [
        ClassVerdict(name, 10, Difference(0.01 * number - 0.3), ["positive", "negative", "undecided"][number % 3])
        for number, name in enumerate(names)
    ]
    verdict = Verdict("negative", f"Transfer hurts: {SCRIPT}.", Difference(-0.1, -0.2, -0.01), None, classes)
    found.task, found.label_names, found.data = "text-classification", names, {"name": f"bank {SCRIPT}", "rows": 770}
    found.answer = Answer(rows, Recommendation(model, "probe", f"Take it. {EMOJI}", (model, "probe")), verdict)
    found.strategies = {**STRATEGIES, "probe": {"title": f"Probe <b>&amp; {EMOJI}", "about": SCRIPT}}
    found.confusion, found.features = confusion(77, 1540), features(77, 500, changed=False)
    found.mistakes = [
        Mistake(3, SCRIPT, ARABIC, 0.9, text)
        for text in (SCRIPT, ARABIC, EMOJI, "word " * 80, "x" * 300, '"><img src=x onerror=alert(1)>')
    ]
    found.mistakes += [Mistake(4, "a", "b", 0.5, None, "https://example.org/tracker.png")]
    found.command = f"run {SCRIPT}"
    return found


def regression() -> ComparisonResults:
    """No classes, and so neither confusion nor features; nothing can be recommended and no curve was drawn."""
    found = images()
    rows = [row("m", name) for name in ("majority", "scratch", "full")] + [failed("m", "probe")]
    verdict = Verdict(
        "undecided", "Whether transfer helps cannot be told from these rows.", Difference(0.01, -0.1, 0.1)
    )
    found.task, found.metric, found.label_names = "regression", "pearson", []
    found.answer = Answer(rows, None, verdict)
    found.confusion, found.features, found.mistakes = None, None, ()
    return found


def two_classes() -> ComparisonResults:
    """Two classes, no mistakes, one model."""
    found = images()
    model = found.answer.rows[0].model
    found.answer = Answer(found.answer.rows[:8], found.answer.recommendation, found.answer.verdict)
    assert all(own.model == model for own in found.answer.rows)
    found.label_names, found.confusion, found.mistakes = ["ants", "bees"], [[40, 0], [0, 38]], ()
    found.features = features(2, 80)
    return found


ALL = {"images": images, "texts": texts, "regression": regression, "two_classes": two_classes}
