"""Predictions held to rules by posterior regularisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.posterior_regularization import (
    expected_violation,
    log_joint,
    projection_divergence,
    row_mean,
)
from hf_transfer.objective import Objective
from hf_transfer.rules.joint_labels import chosen, joint_violations
from hf_transfer.rules.rule import Rule, RuleFunction
from hf_transfer.schedules import Schedule, evaluate


class RuleConstraint(Objective):
    r"""
    Rules as teachers (posterior regularisation): predict what obeys them, on rows with and without a label.

    With rules $r_l(x, y) \in [0, 1]$ of confidence $\lambda_l$, the nearest distribution to the model's own $p$ that
    heeds them has a closed form, and the model imitates it:

    $$ q(y \mid x) \propto p(y \mid x) \, \exp\Big(-C \sum_l \lambda_l (1 - r_l(x, y))\Big), \qquad
    L = \frac{1}{B} \sum_{i=1}^{B} \operatorname{KL}\big(q(\cdot \mid x_i) \,\Vert\, p(\cdot \mid x_i)\big) $$

    $q$ is constant: the gradient with respect to the logits is $p - q$. It is the model itself, made to heed the
    rules, that teaches, and anew in each step.

    Args:
        rules (`Sequence[Rule | Callable]`):
            [`Rule`]s; a function is a rule of confidence 1.
        strength (`float` or `Schedule`, *optional*, defaults to 6.0):
            $C$, dimensionless; 6 as in the paper's experiments. A class that breaks a sure rule keeps $e^{-C}$ of its
            odds; `math.inf` rules it out.
        form (`str`, *optional*, defaults to `"projection"`):
            `"penalty"` for the expected violation $\sum_l \lambda_l E_p[1 - r_l]$ instead, in truth values: milder
            where the model is sure, since its gradient dies out with $p (1 - p)$. `strength` is not read.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength of the imitation (dimensionless). The paper lets it grow: `warmup(gamma=10.0)`.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for tokens, each a row of its own, padding left out.
        - of several labels a row, $y$ is a set of labels, independent in $p$. $q$ is exact over the joint states of
          the labels that rules tie together, up to 10 of them; in a larger knot each rule is projected by itself. The
          divergences of a row are summed, and the gradient is that of the marginals, $p_c - q_c$.
        - returns: scalar float32, in nats per row; zero where the predictions obey the rules.

    Degenerate batches:
        One row is enough; labels are not read. Where no rule tells outcomes apart, or no token counts, the term is an
        exact zero that still depends on `logits`.

    Deviations from the paper:
        Beside the task loss and not mixed with it by $\pi$: $\pi / (1 - \pi)$ is the weight. A divergence and not a
        cross-entropy: the same gradient, and zero where the rules hold. Rules ground on one row at a time. The model
        predicts by $p$; the paper also reports $q$.

    Raises:
        ValueError: without a rule, for a negative strength or another form; at attach time for a regression and for
            rules on labels that the model does not have; at the first batch for truths that are none.

    Relations:
        The violation of each rule is logged. [`EntropyMinimization`] and [`PseudoLabels`] also learn from rows
        without a label, from nothing but the model. A rule costs nothing where it is a formula; [`ContrastClause`]
        costs a forward.

    Example:
        >>> never_the_last = Rule(lambda inputs, probabilities: 1 - probabilities[:, 2], name="never_the_last")
        >>> objective = RuleConstraint([never_the_last]).build(ModelSpec(feature_dim=4, num_labels=3))
        >>> batch = TransferBatch(features=torch.zeros(1, 4), logits=torch.zeros(1, 3), labels=torch.tensor([-100]))
        >>> round(objective(batch).item(), 3)  # log(3/2) = 0.405 at infinite strength
        0.397

    Paper: Hu et al., "Harnessing Deep Neural Networks with Logic Rules", ACL 2016, https://huggingface.co/papers/1603.06318
    """

    needs_classes = True
    reads_inputs = True

    def __init__(
        self,
        rules: Sequence[Rule | RuleFunction],
        *,
        strength: float | Schedule = 6.0,
        form: Literal["projection", "penalty"] = "projection",
        weight: float | Schedule = 1.0,
    ):
        super().__init__(weight=weight)
        self.rules = [Rule.of(rule) for rule in ([rules] if callable(rules) or isinstance(rules, Rule) else rules)]
        if not self.rules:
            raise ValueError(
                "`RuleConstraint([])` has no rule: there is nothing to hold the predictions to. Give functions of "
                "inputs and probabilities, or ready-made rules such as `LabelHierarchy({...})`."
            )
        if not callable(strength) and not strength >= 0:
            raise ValueError(
                f"`strength={strength}` is negative or no number: the model would be drawn to what breaks the rules. "
                "Give a positive number, such as 6.0, or `math.inf` for rules without exception."
            )
        if form not in ("projection", "penalty"):
            raise ValueError(
                f"`form={form!r}` is unknown: it says what becomes of a broken rule. Give `projection`, to imitate "
                "the distribution that heeds the rules, or `penalty`, for the expected violation."
            )
        self.strength = strength
        self.form: Literal["projection", "penalty"] = form
        wanted = {column: None for rule in self.rules for column in rule.columns}
        self.columns = tuple(wanted)  # pyright: ignore  # of the class for all others; here of the rules

    def build(self, spec: ModelSpec) -> Self:
        """Introduce the rules to the model."""
        problem = getattr(getattr(spec.model, "config", None), "problem_type", None)
        if problem == "regression" or (spec.num_labels < 2 and problem != "multi_label_classification"):
            raise ValueError(
                "RuleConstraint on a regression: rules speak of class probabilities, and a number has none. Leave it "
                "out, or give the model `num_labels` of 2 or more."
            )
        for rule in self.rules:
            rule.build(spec)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """How far the predictions are from heeding the rules, in nats per row."""
        logits, labels = batch.logits, batch.labels
        assert logits is not None  # `attach` gives them
        if labels is not None and logits.dim() == 2 and labels.shape == logits.shape:
            return self._several_labels(batch, logits)
        return self._one_label(batch, logits)

    def _one_label(self, batch: TransferBatch, logits: Tensor) -> Tensor:
        mask = batch.attention_mask
        if logits.dim() == 2 or (mask is not None and mask.shape != logits.shape[:-1]):
            mask = None
        log_probabilities = F.log_softmax(logits, -1)
        probabilities = log_probabilities.detach().exp()
        violations = torch.zeros_like(probabilities)
        for name, rule in self._named():
            with torch.no_grad():
                truths = self._checked(rule, rule.class_truths(batch, probabilities), probabilities)
            violations = violations + rule.confidence * (1 - truths)
            self.diagnostics[name] = row_mean((probabilities * (1 - truths)).sum(-1), mask)
        return row_mean(self._term(batch, log_probabilities, violations), mask)

    def _several_labels(self, batch: TransferBatch, logits: Tensor) -> Tensor:
        factors = []
        for name, rule in self._named():
            with torch.no_grad():
                own = rule.label_truths(batch, torch.sigmoid(logits.detach()))
                own = [factor._replace(truths=rule.checked(factor.truths)) for factor in own]
                broken = [expected_violation(log_joint(chosen(logits, f.labels)), 1 - f.truths) for f in own]
            self.diagnostics[name] = torch.stack(broken).sum(0).mean()
            factors += [(factor, rule.confidence) for factor in own]
        term = torch.zeros_like(logits[:, 0])
        for labels, violations in joint_violations(factors):
            log_probabilities = log_joint(chosen(logits, labels))
            term = term + self._term(batch, log_probabilities, violations.expand_as(log_probabilities))
        return term.mean()

    def _term(self, batch: TransferBatch, log_probabilities: Tensor, violations: Tensor) -> Tensor:
        if self.form == "penalty":
            return expected_violation(log_probabilities, violations)
        return projection_divergence(log_probabilities, violations, evaluate(self.strength, batch.progress))

    def _checked(self, rule: Rule, truths: Tensor, probabilities: Tensor) -> Tensor:
        if truths.shape != probabilities.shape:
            raise ValueError(
                f"`class_truths` of rule `{rule.name}` has shape {tuple(truths.shape)}, the predictions have "
                f"{tuple(probabilities.shape)}: which truth belongs to which class is not known. Return one for each "
                "class of each row."
            )
        return rule.checked(truths.to(probabilities.dtype))

    def _named(self) -> list[tuple[str, Rule]]:
        """The rules by the name under which their violation is logged."""
        named: dict[str, Rule] = {}
        for rule in self.rules:
            name, copies = f"broken_{rule.name}", 1
            while name in named:
                copies += 1
                name = f"broken_{rule.name}_{copies}"
            named[name] = rule
        return list(named.items())
