"""Code that loads a model, as a card shows it: it runs as it stands beside the folder, or with the Hub."""

from __future__ import annotations

from hf_transfer.model_card.facts import RunFacts


_FORECASTING, _SERIES = "time-series-forecasting", "time-series-classification"

_PIPELINES: dict[str, str | None] = {
    "image-classification": "image-classification",
    "text-classification": "text-classification",
    "regression": "text-classification",
    "token-classification": "token-classification",
    "audio-classification": "audio-classification",
    _SERIES: None,  # the Hub has no such task
}
_AUTO = {
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "audio-classification": "AutoModelForAudioClassification",
}

__all__ = ["hub_task", "snippets"]


def hub_task(task: str | None) -> str | None:
    """
    The task as the Hub calls it; None where it has no name for it.

    Example:
        >>> hub_task("regression"), hub_task("image-classification"), hub_task(None)
        ('text-classification', 'image-classification', None)
    """
    return _PIPELINES.get(task or "", task)


def snippets(facts: RunFacts, name: str) -> list[tuple[str, str]]:
    """
    Ways to load a model, the shortest first: what each needs, and its code.

    Args:
        facts (`RunFacts`): of the run.
        name (`str`): Hub id of the model, or the name of its folder.

    Example:
        >>> print(snippets(RunFacts(task="text-classification", processor="BertTokenizer"), "user/x")[0][1])
        from transformers import pipeline
        <BLANKLINE>
        classifier = pipeline("text-classification", model="user/x")
        print(classifier("A text of your own."))
    """
    task = hub_task(facts.task)
    if task == _FORECASTING:
        return [("With transformers and hf_transfer", _forecaster(facts, name))]
    if facts.task == _SERIES:
        return [("With transformers and hf_transfer", _series_classifier(facts, name))]
    if task not in _AUTO:
        return []
    if facts.library == "peft":
        return _adapter(facts, task, name)
    if facts.processor is None:
        auto = _AUTO[task]
        return [("With transformers", f'from transformers import {auto}\n\nmodel = {auto}.from_pretrained("{name}")')]
    header, call = _call(facts, task)
    made = f'classifier = pipeline("{task}", model="{name}"{_options(facts)})'
    return [("With transformers", f"{header}from transformers import pipeline\n\n{made}\n{call}")]


def _adapter(facts: RunFacts, task: str, name: str) -> list[tuple[str, str]]:
    header, call = _call(facts, task)
    keyword = "tokenizer" if task.startswith(("text", "token")) else "image_processor"
    keyword = "feature_extractor" if task.startswith("audio") else keyword
    found = []
    # an adapter knows its base by a name that others can open, and that of a folder is none
    known = facts.base_hub_id or facts.base_model is None or facts.base_model.startswith("embedded:")
    base = "" if known else f', base_model="{facts.base_model}"'
    load = f'model, processor = load_adapter("{name}"{base})'
    imports = f"{header}from transformers import pipeline\n\nfrom hf_transfer import load_adapter"
    if facts.processor is None:
        found.append(
            ("With hf_transfer", f"from hf_transfer import load_adapter\n\nmodel, _ = {load.partition(' = ')[2]}")
        )
    else:
        made = f'classifier = pipeline("{task}", model=model, {keyword}=processor{_options(facts)})'
        found.append(("With hf_transfer", f"{imports}\n\n{load}\n{made}\n{call}"))
    if facts.base_hub_id:
        auto = _AUTO[task]
        revision = f', revision="{facts.base_revision}"' if facts.base_revision else ""
        base = (
            f'base = {auto}.from_pretrained(\n    "{facts.base_hub_id}"{revision}, '
            f"num_labels={len(facts.label_names) or 1}, ignore_mismatched_sizes=True\n)"
        )
        imports = f"from peft import PeftModel\nfrom transformers import {auto}"
        found.append(
            ("With peft alone", f'{imports}\n\n{base}\nmodel = PeftModel.from_pretrained(base, "{name}").eval()')
        )
    return found


def _forecaster(facts: RunFacts, name: str) -> str:
    """Of the last rows of a series, made up here, the next ones."""
    kind = facts.model_class or "PatchTSTForPrediction"
    return f"""import numpy as np
from transformers import {kind}

from hf_transfer.time_series.forecasting import forecast
from hf_transfer.time_series.processor import SeriesProcessor

model = {kind}.from_pretrained("{name}")
processor = SeriesProcessor.from_pretrained("{name}")
# your last rows, in the units of the series and with these channels; NaN where missing
print(processor.channels)
shape = (processor.context_length, len(processor.channels))
values = np.random.default_rng(0).normal(processor.mean, processor.std, shape)
print(forecast(model, processor, values))"""


def _series_classifier(facts: RunFacts, name: str) -> str:
    """Of one series, made up here, the name of its class."""
    kind = facts.model_class or "PatchTSTForClassification"
    # PatchTSMixer takes no mask here, and calls its logits otherwise
    mixer = kind.startswith("PatchTSMixer")
    given, logits = (
        ('past_values=inputs["past_values"]', "prediction_outputs") if mixer else ("**inputs", "prediction_logits")
    )
    return f"""import numpy as np
import torch
from transformers import {kind}

from hf_transfer.time_series.processor import SeriesProcessor

model = {kind}.from_pretrained("{name}")
processor = SeriesProcessor.from_pretrained("{name}")
# a series of yours, in its own units, of as many rows and channels; NaN where missing, and before a shorter one
shape = (processor.context_length, len(processor.channels))
values = np.random.default_rng(0).normal(processor.mean, processor.std, shape)
inputs = processor(values, return_tensors="pt")
with torch.no_grad():
    logits = model({given}).{logits}
print(model.config.id2label[int(logits.argmax())])"""


def _options(facts: RunFacts) -> str:
    return ', function_to_apply="none"' if facts.task == "regression" else ""


def _call(facts: RunFacts, task: str) -> tuple[str, str]:
    """What must be imported for an input, and the call with it."""
    if task == "image-classification":
        call = 'image = Image.new("RGB", (224, 224))  # or Image.open("your.png")\nprint(classifier(image))'
        return "from PIL import Image\n", call
    if task == "audio-classification":
        return "import numpy as np\n", "print(classifier(np.zeros(16_000, dtype=np.float32)))  # or the path of a file"
    if "text_pair" in facts.inputs:
        return "", 'print(classifier({"text": "A text of your own.", "text_pair": "Another."}))'
    return "", 'print(classifier("A text of your own."))'
