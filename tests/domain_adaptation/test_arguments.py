"""Options of the recipe that cannot be meant."""

from __future__ import annotations

import pytest

from hf_transfer.domain_adaptation.arguments import AdaptationLoopArguments, DomainArguments


def arguments(**options):
    return DomainArguments(**{"source_dataset": ["a"], "target_dataset": ["b"], **options})


def names(**options):
    return [method.name for method in arguments(**options).runs]


def test_the_runs_that_are_asked_for(tmp_path):
    (tmp_path / "mine.yaml").write_text("mcc: 0.5")
    assert names() == ["source_only", "dann"]
    assert names(source_only=False) == ["dann"]
    assert names(methods=["dann,cdan+mcc", "target_oracle"]) == ["source_only", "dann", "cdan+mcc", "target_oracle"]
    assert names(methods=["source_only"]) == ["source_only"]
    assert names(loss=[str(tmp_path / "mine.yaml")]) == ["source_only", "mine"]


def test_the_only_method_is_kept_and_the_oracle_never():
    assert [method.name for method in arguments(methods=["dann", "target_oracle"]).candidates] == ["dann"]
    several = arguments(methods=["dann", "mcc", "target_oracle"])
    assert [method.name for method in several.candidates] == ["source_only", "dann", "mcc"]


def test_the_weight_of_dann():
    (term,) = arguments(adversarial_weight=0.25).runs[1].objectives(num_domains=2)
    assert term.weight == 0.25


def test_the_judge_is_among_the_validators():
    assert arguments(validators=["dev"]).validators == ["dev", "information_maximization"]
    assert arguments(validators=["dev"], choose_by="oracle").validators == ["dev"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "`--seeds 0` trains nothing"),
        ({"methods": ["dan,dann", "dann"]}, "`dann` is named twice.*Name it once"),
        ({"methods": ["mccc"]}, "Did you mean `mcc`"),
        ({"target_dataset": ["a"]}, "`a` is source and target: that is one domain.*Name another"),
        ({"source_dataset": ["c", "c"]}, "`--source_dataset c c` names a data set twice"),
        ({"choose_by": "smd"}, "`--choose_by smd` is no validator.*Did you mean `snd`"),
        ({"validators": ["entropie"]}, "there is no `entropie`.*Did you mean `entropy`"),
        ({"validation_rows": 1}, "`--validation_rows 1` leaves validators nothing"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(ValueError, match=message):
        arguments(**options)


def test_a_checkpoint_cannot_be_resumed_for_several(tmp_path):
    args = AdaptationLoopArguments(output_dir=str(tmp_path), resume_from_checkpoint="x", use_cpu=True)
    with pytest.raises(ValueError, match="`--resume_from_checkpoint` with 1 seeds and the methods dann, mcc"):
        arguments(methods=["dann,mcc"]).check(args)
    arguments().check(args)


def test_a_checkpoint_is_chosen_only_where_there_is_one(tmp_path):
    with pytest.raises(ValueError, match="`--metric_for_best_model snd` with `--eval_strategy epoch` and `--save_st"):
        AdaptationLoopArguments(output_dir=str(tmp_path), metric_for_best_model="snd", save_strategy="no")
    assert not AdaptationLoopArguments(output_dir=str(tmp_path)).load_best_model_at_end
    assert AdaptationLoopArguments(output_dir=str(tmp_path), metric_for_best_model="snd").load_best_model_at_end
