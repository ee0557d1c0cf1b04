"""Rules that predictions should obey: of one's own, ready-made, and the logic to write them with."""

from typing import TYPE_CHECKING, Any

from hf_transfer.functional.soft_logic import all_of, any_of, equivalent, implies, negate
from hf_transfer.rules.contrast_clause import ContrastClause
from hf_transfer.rules.keyword_rule import KeywordRule
from hf_transfer.rules.label_rules import LabelHierarchy, MutualExclusion
from hf_transfer.rules.rule import LabelFactor, Rule


if TYPE_CHECKING:
    from hf_transfer.objectives.knowledge.rule_constraint import RuleConstraint


__all__ = [
    "ContrastClause",
    "KeywordRule",
    "LabelFactor",
    "LabelHierarchy",
    "MutualExclusion",
    "Rule",
    "RuleConstraint",
    "all_of",
    "any_of",
    "equivalent",
    "implies",
    "negate",
]


def __getattr__(name: str) -> Any:
    if name != "RuleConstraint":
        raise AttributeError(f"module `hf_transfer.rules` has no attribute `{name}`")
    # on first use: the objective imports the rules
    from hf_transfer.objectives.knowledge.rule_constraint import RuleConstraint

    return RuleConstraint
