"""The documentation is true: README snippets run, the tables are complete, docstrings have their sections."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

import hf_transfer
from hf_transfer import callbacks, objectives
from hf_transfer.adapter_arguments import AdapterArguments
from hf_transfer.domain_adaptation.arguments import DomainArguments
from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.few_shot.arguments import FewShotArguments
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.multitask.arguments import MultitaskArguments
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments
from hf_transfer.selection.arguments import SelectSourceArguments
from hf_transfer.time_series.arguments import ForecasterArguments, SeriesArguments
from tests.models import tiny_bert
from tests.objectives.cases import CASES


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")  # the snippets take the Trainer's defaults
def test_readme_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(SNIPPETS) >= 3
    namespace: dict = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), namespace)


def test_what_the_readme_says_is_printed_is_printed():
    (claimed,) = re.findall(r"print\(attachment.objectives\)  # (.*)", README)
    chosen = [objectives.DomainAdversarial(), objectives.L2SP(weight=0.01)]
    assert str(hf_transfer.objective.Objectives(chosen)) == claimed


PLUMBING = {"Phase", "Plateau", "TrackProgress", "WeightSnapshot", "TransferEntry", "TransferReport"}
METHODS = [*objectives.__all__, *(name for name in callbacks.__all__ if name not in PLUMBING)]
METHODS += ["extract_features", "fit_probe", "FeatureExtractionTrainer", "layer_report"]
METHODS += ["reweight", "importance_weights", "label_shift_weights", "tradaboost", "TargetValidation", "DomainHealth"]
METHODS += ["adapt_source_free", "adapt_at_test_time", "validate_without_labels", "proxy_a_distance", "mmd_test"]
METHODS += ["class_shift", "domain_bound", "feature_plot"]
METHODS += [
    "GradientSurgery",
    "mix_tasks",
    "compare_tasks",
    "export_task",
    "evaluate_few_shot",
    "contrastive_fine_tune",
]
METHODS += ["contrastive_fine_tune", "head_from_class_names", "sentence_classifier", "meta_test"]
METHODS += ["fit_head", "transfer_parameters", "reinitialize_blocks", "wise_ft", "uniform_soup", "greedy_soup"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_row_with_its_paper(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", README, flags=re.MULTILINE)
    if name in objectives.__all__:
        address = re.search(r"https://\S+", CASES[name].make(tiny_bert()).paper).group()
        assert address in row


def test_every_option_named_in_a_table_exists():
    table = re.findall(
        r"^\|.*\|$", README[README.index("## Methods") : README.index("## What we measured")], re.MULTILINE
    )
    options = {option for row in table for option in re.findall(r"--(\w+)", row)}
    kinds = (MethodArguments, ModelArguments, DataArguments, LoopArguments, DomainArguments, AdapterArguments)
    kinds += (MultitaskArguments, FewShotArguments, FeatureArguments)
    kinds += (SelectSourceArguments, SeriesArguments, ForecasterArguments)
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert options and options - known == {"soup", "search", "lr_find"}  # the recipe's own


def test_every_recipe_is_named():
    for recipe in (ROOT / "recipes").glob("*.py"):
        assert f"recipes/{recipe.name}" in README, recipe.name
        assert recipe.with_suffix(".yaml").is_file()


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_public_name_is_documented_and_loads():
    for name in hf_transfer.__all__:
        assert getattr(hf_transfer, name).__doc__, name
    for name in callbacks.__all__:
        assert getattr(callbacks, name).__doc__, name


def test_lazy_names_and_typed_names_are_the_same():
    source = (ROOT / "hf_transfer" / "__init__.py").read_text(encoding="utf-8")
    (typed_only,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    typed = {alias.name for line in typed_only.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    assert typed == set(hf_transfer._MODULE_OF)
    eager = set(hf_transfer.__all__) - typed
    names = {"Anatomy", "Attachment", "ModelSpec", "Objective", "TransferBatch", "anatomy", "attach", "compare"}
    assert eager == names


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute `Nothing`"):
        _ = hf_transfer.Nothing


def test_functions_are_not_shadowed_by_their_modules():
    import hf_transfer.anatomy
    import hf_transfer.attach

    assert callable(hf_transfer.anatomy) and callable(hf_transfer.attach)


@pytest.mark.parametrize("path", sorted((ROOT / "hf_transfer").rglob("*.py")), ids=lambda path: path.name)
def test_modules_say_what_they_hold_and_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(('"""', 'r"""')), "no module docstring"
    assert len(text.splitlines()) <= 350


def test_nothing_prints():
    for path in (ROOT / "hf_transfer").rglob("*.py"):
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path
