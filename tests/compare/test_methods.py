"""The language of `--methods`, with a vocabulary of its own: parts, what they are built with, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import TrainerCallback

from hf_transfer.compare.methods import Method, Part, Vocabulary, nearest, required, snake_case
from hf_transfer.objective import Objective


class Pull(Objective):
    def __init__(self, anchor: str, *, scale: float = 2.0, domains: int = 1, weight: Any = 1.0):
        super().__init__(weight=weight)
        if scale <= 0:
            raise ValueError(f"`scale={scale}` is not positive")
        self.anchor, self.scale, self.domains = anchor, scale, domains

    def forward(self, batch):
        return 0 * batch.features.sum()


class Push(Objective):
    def forward(self, batch):
        return 0 * batch.features.sum()


class Stop(TrainerCallback):
    def __init__(self, rows: Any = None):
        self.rows = rows


@dataclass
class Weigh:
    clip: float = 1.0


@dataclass
class WeighOtherwise:
    bins: int = 3


class Own(Method):
    """What a recipe adds to a method."""


KNOWN = {"pull": Pull, "tug": Pull, "push": Push, "stop": Stop, "weigh": Weigh, "weigh2": WeighOtherwise}
WORDS = Vocabulary(
    Own, lambda: KNOWN, ("bare", "nothing"), options={"tug": {"scale": 9.0}}, trial=lambda: {"anchor": "trial"}
)


@pytest.mark.parametrize(
    ("made", "kinds"),
    [(Pull, (True, False, False)), (Stop, (False, True, False)), (Weigh, (False, False, True))],
)
def test_what_a_part_is(made, kinds):
    part = Part("x", made)
    assert (part.is_objective, part.is_callback, part.is_weighting) == kinds


def test_given_options_reach_those_that_know_them_and_never_replace_what_was_set():
    part = Part("pull", Pull, {"scale": 5.0})
    assert part.accepts("domains") and not part.accepts("rows")
    built = part.built(anchor="a", scale=7.0, domains=4, rows="no option of it")
    assert (built.anchor, built.scale, built.domains) == ("a", 5.0, 4)
    changed = part.with_options(scale=6.0, domains=2)
    assert (changed.options, part.options) == ({"scale": 6.0, "domains": 2}, {"scale": 5.0})
    assert changed.built(anchor="a", domains=9).domains == 2


def test_a_method_makes_its_terms_and_callbacks_anew_for_every_run():
    method = Method("all", tuple(Part(name, KNOWN[name]) for name in ("stop", "pull", "weigh", "push")))
    terms, again = (method.objectives(anchor="a", rows=[1]) for _ in range(2))
    assert [type(term) for term in terms] == [Pull, Push] and not {*map(id, terms)} & {*map(id, again)}
    callback: Any
    (callback,) = method.callbacks(anchor="a", rows=[1])
    assert callback.rows == [1] and callback is not method.callbacks()[0]
    assert not method.is_reference and Method("bare").is_reference and Method("bare").objectives(anchor="a") == []


def test_a_description_tells_options_and_parts_apart_and_is_json():
    method = WORDS.joined(
        "both", [WORDS.part("pull", {"scale": 3.0}, where=""), WORDS.part("stop", where="")], where=""
    )
    assert json.loads(json.dumps(method.description())) == {"pull": {"scale": 3.0}, "stop": {}}


def test_words_of_the_command_line():
    method = WORDS.parse(" Push + TUG+weigh ")
    assert type(method) is Own and method.name == "push+tug+weigh"
    assert [part.name for part in method.parts] == ["push", "tug", "weigh"]
    assert method.parts[1].built(anchor="a").scale == 9.0  # what comes with the name
    assert WORDS.part("tug", {"scale": 1.0}, where="").options == {"scale": 1.0}  # unless it is given
    reference = WORDS.parse("Bare")
    assert type(reference) is Own and reference.name == "bare" and reference.is_reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("puhs", "`--methods` names `puhs`, which is no method: nothing would be trained by it. Did you mean `push`"),
        ("nothin", "Did you mean `nothing`"),
        ("quux", "Choose from pull, tug, push, stop, weigh, weigh2, bare, nothing"),
        ("push+", "names ``, which is no method"),
        ("push+bare+stop", "joins `bare` with other methods.*reference run.*`--methods bare,push\\+stop`"),
        ("push+stop+push", "names `push` twice.*count double.*`--loss`"),
        ("pull+tug", "`--methods`: `pull` and `tug` are one class.*Name one"),
        ("weigh+push+weigh2", "`weigh` and `weigh2` both weigh the source rows"),
    ],
)
def test_words_that_cannot_be_meant(text, message):
    with pytest.raises(ValueError, match=message):
        WORDS.parse(text)


def test_a_part_is_built_once_before_any_run():
    with pytest.raises(ValueError, match="`scale=-1` is not positive"):
        WORDS.part("pull", {"scale": -1}, where="`a.yaml`")
    with pytest.raises(ValueError, match="`a.yaml` gives `pull` the option `scael`, which it has not.*`scale`"):
        WORDS.part("pull", {"scael": 1}, where="`a.yaml`")
    with pytest.raises(TypeError, match="anchor"):  # without what it needs it cannot be tried
        Vocabulary(Own, lambda: KNOWN, ()).part("pull", where="")
    assert WORDS.part("pull", where="").options == {}  # what it was tried with is no option of it


def test_names_of_classes_and_their_options():
    assert [snake_case(name) for name in ("RDrop", "DIST", "CoTuning", "L2SP")] == [
        "rdrop",
        "dist",
        "co_tuning",
        "l2sp",
    ]
    assert required(Pull) == {"anchor"} and required(Stop) == set()

    class Any_:  # noqa: N801
        def __init__(self, needed, *more, other=1, **options):
            pass

    assert required(Any_) == {"needed"} and not Part("x", Any_).accepts("options")


def test_the_nearest_name():
    assert nearest("PUSH", KNOWN) == "Did you mean `push`?"
    assert nearest("zzz", iter(["b", "a"])) == "Choose from b, a."
