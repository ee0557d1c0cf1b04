"""Names of methods and what they stand for."""

from __future__ import annotations

from typing import Any

import pytest

from hf_transfer import objectives
from hf_transfer.compare.methods import nearest
from hf_transfer.domain_adaptation.methods import ACRONYMS, REFERENCES, VOCABULARY, known_parts, parse_method
from hf_transfer.objective import Objective


part = VOCABULARY.part


def test_every_acronym_is_a_class_of_the_library():
    known = known_parts()
    assert set(ACRONYMS) <= known.keys()
    for acronym, name in ACRONYMS.items():
        assert known[acronym].__name__ == name


def test_every_objective_of_domain_adaptation_can_be_named():
    known = set(known_parts().values())
    for name in objectives.__all__:
        made = getattr(objectives, name)
        if ".domain_adaptation." in made.__module__:
            assert made in known, name


@pytest.mark.parametrize("name", [*ACRONYMS, "iw", "kmm", "kliep", "ulsif", "nearest", "bbse", *REFERENCES])
def test_every_name_parses(name):
    method = parse_method(name)
    assert method.name == name and method.is_reference == (name in REFERENCES)
    terms = method.objectives(num_domains=3)
    assert method.needs_target == bool(terms)
    assert all(isinstance(term, Objective) for term in terms)
    assert all(getattr(term, "num_domains", 3) == 3 for term in terms)
    assert (method.weighting is not None) == (name in ("iw", "kmm", "kliep", "ulsif", "nearest", "bbse"))


def test_joined_names_compose_and_every_run_has_its_own_terms():
    method = parse_method("CDAN + mcc+adabn+kmm")
    assert method.name == "cdan+mcc+adabn+kmm"
    first, second = method.objectives(num_domains=2), method.objectives(num_domains=2)
    assert [type(term).__name__ for term in first] == ["ConditionalAdversarial", "MinimumClassConfusion"]
    assert not {id(term) for term in first} & {id(term) for term in second}
    callback: Any
    (callback,) = method.callbacks(data=[{"a": 1}], collator=None)
    assert type(callback).__name__ == "AdaptBatchNorm" and callback.data == [{"a": 1}]
    assert method.weighting.method == "kmm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dan_n", "`--methods` names `dan_n`, which is no method: .*Did you mean `dann`"),
        ("cdan+mccc", "names `mccc`.*Did you mean `mcc`"),
        ("source_onli", "Did you mean `source_only`"),
        ("quux_zzz_1", "Choose from dann"),
        ("dann+source_only", "joins `source_only`.*reference run.*`--methods source_only,dann`"),
        ("mcc+mcc", "names `mcc` twice.*count double"),
        ("mcc+minimum_class_confusion", "`mcc` and `minimum_class_confusion` are one class"),
        ("iw+kmm", "`iw` and `kmm` both weigh the source rows.*Name one"),
        ("co_tuning", "is no method"),  # needs a source model
    ],
)
def test_names_that_cannot_be_meant(text, message):
    with pytest.raises(ValueError, match=message):
        parse_method(text)


def test_an_unknown_option_and_a_wrong_value():
    with pytest.raises(ValueError, match="gives `dann` the option `hiden_size`.*Did you mean `hidden_size`"):
        part("dann", {"hiden_size": 8}, where="`--loss a`")
    with pytest.raises(ValueError, match="hidden_size=0"):
        part("dann", {"hidden_size": 0}, where="`--loss a`")
    with pytest.raises(ValueError, match=r"`clip=2` is outside \(0, 1\].*Give a share"):
        part("iw", {"clip": 2}, where="`--loss a`")
    with pytest.raises(ValueError, match=r"`power=3` is outside \[0, 1\].*flatter"):
        part("kmm", {"power": 3}, where="`--loss a`")
    with pytest.raises(ValueError, match='`confusion="firm"` is no way to count.*hard'):
        part("bbse", {"confusion": "firm"}, where="`--loss a`")


def test_options_win_over_what_the_run_knows():
    made = part("dann", {"num_domains": 5}, where="").built(num_domains=2, data=None)
    assert made.num_domains == 5
    assert part("dann", where="").with_options(weight=0.25).built().weight == 0.25
    assert nearest("dann2", ["mcc", "dann"]) == "Did you mean `dann`?"
