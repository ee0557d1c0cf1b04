"""What a teacher said of the rows of a batch, read from columns of the data in place of running it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_transfer.attach import CHILD
from hf_transfer.batch import TransferBatch
from hf_transfer.teacher.top_k import restore_top_k


if TYPE_CHECKING:
    from hf_transfer.teacher.output import TeacherOutput

LOGITS = "teacher_logits"
FEATURES = "teacher_features"
HIDDEN = "teacher_hidden."
TOP_VALUES = "teacher_top_values"
TOP_INDICES = "teacher_top_indices"
LOG_REST = "teacher_log_rest"
CLASSES = "teacher_classes"
"""How many classes the teacher has, beside the largest logits of each row: these do not tell."""
TOKENS = "teacher_tokens"
"""Checksum of the token ids that the teacher read, beside outputs per token; [`TeacherCollator`] takes it out."""

_TOP = (TOP_VALUES, TOP_INDICES, LOG_REST, CLASSES)
_checked: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models of which a batch of largest logits was looked at: reading values back waits for the device."""

__all__ = [
    "CLASSES",
    "FEATURES",
    "HIDDEN",
    "LOGITS",
    "LOG_REST",
    "TOKENS",
    "TOP_INDICES",
    "TOP_VALUES",
    "CachedOutput",
    "column_names",
    "is_cached",
    "is_per_token",
    "read_columns",
]


def column_names(hidden_states: Iterable[str] = ()) -> tuple[str, ...]:
    """
    The columns that may hold what a teacher said: what `Teacher.columns` names.

    Args:
        hidden_states (`Iterable[str]`, *optional*): modules of the teacher whose outputs are read.

    Example:
        >>> column_names(["encoder.layer.1"])[-1]
        'teacher_hidden.encoder.layer.1'
    """
    return (LOGITS, FEATURES, *_TOP, TOKENS, *(f"{HIDDEN}{name}" for name in sorted(set(hidden_states))))


def is_cached(name: str) -> bool:
    """Whether a column of this name holds what a teacher said."""
    return name in (LOGITS, FEATURES, TOKENS, *_TOP) or name.startswith(HIDDEN)


def is_per_token(name: str, rows: Sequence[Tensor]) -> bool:
    """
    Whether these values of a column, one for each row of text, hold something for each token.

    Args:
        name (`str`): of a column beside which there is `teacher_tokens`.
        rows (`Sequence[Tensor]`): its values.

    Example:
        >>> is_per_token("teacher_logits", [torch.zeros(3)]), is_per_token("teacher_logits", [torch.zeros(7, 3)])
        (False, True)
    """
    return name not in (CLASSES, TOKENS) and rows[0].dim() == (1 if name == LOG_REST else 2)


class CachedOutput:
    """
    A `TeacherOutput` that is read from columns; what they do not hold, the teacher is asked for when it is needed.

    Args:
        batch (`TransferBatch`):
            With the columns.
        align (`Callable`, *optional*):
            Brings stored logits `(..., C)` into the student's order of classes.
        num_classes (`int`, *optional*):
            Classes of the teacher; by default as many as the student has.
        run (`Callable`, *optional*):
            Runs the teacher on the batch, with the classes in the student's order. Without it, what is not stored
            cannot be had.

    Raises:
        ValueError: if the rows of the batch are not those that the teacher saw; when something is read, if it is not
            stored and there is no `run`, or has not the rows, tokens or classes of the student.
    """

    def __init__(
        self,
        batch: TransferBatch,
        *,
        align: Callable[[Tensor], Tensor] | None = None,
        num_classes: int | None = None,
        run: Callable[[], TeacherOutput] | None = None,
    ):
        _refuse_other_inputs(batch)
        self._columns: Mapping[str, Tensor] = batch.columns
        student = batch.logits
        self._shape = None if student is None else tuple(student.shape)
        self._device = batch.features.device
        self._model = batch.model
        self._align, self._run, self._num_classes = align, run, num_classes
        self._said: TeacherOutput | None = None
        self._logits: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """`(B, C)` or `(B, T, C)` float32, the classes in the student's order."""
        if self._logits is None:
            found = self._stored_logits()
            if found is None:
                return self._online(LOGITS).logits
            found = found if self._align is None else self._align(found)
            if self._shape is not None:
                self._require(found.shape[-1], self._shape[-1])
            self._logits = found
        return self._logits

    @property
    def features(self) -> Tensor:
        """`(B, D)` or `(B, T, D)` float32."""
        found = self._column(FEATURES)
        return self._online(FEATURES).features if found is None else found

    @property
    def hidden_states(self) -> Mapping[str, Tensor]:
        """Outputs of modules of the teacher by name, float32."""
        names = [name.removeprefix(HIDDEN) for name in self._columns if name.startswith(HIDDEN)]
        return _HiddenStates(self, names)

    @property
    def attentions(self) -> dict[str, Tensor]:
        """Attention maps, which are never stored: they are larger than what they are computed of."""
        return self._online("attention maps").attentions

    def _column(self, name: str) -> Tensor | None:
        value = self._columns.get(name)
        if value is None:
            return None
        value = value.to(self._device).float()
        if self._shape is None:
            return value
        if len(value) != self._shape[0]:
            raise ValueError(
                f"Column `{name}` holds {len(value)} rows and the model saw {self._shape[0]}: some objective added "
                "rows that the teacher never saw. Remove the columns `teacher_*` to run the teacher on every batch, "
                "or take that objective out."
            )
        per_token = len(self._shape) == 3 and value.dim() >= 3
        if per_token and name in (LOGITS, FEATURES, TOP_VALUES) and value.shape[1] != self._shape[1]:
            raise ValueError(
                f"Column `{name}` holds {value.shape[1]} tokens a row and the student reads {self._shape[1]}: the "
                "teacher was cached with another tokenizer or maximal length, and which token is which is unknown. "
                "Cache it on the tokenised data set that the student is trained on, and collate with "
                "`TeacherCollator`."
            )
        return value

    def _stored_logits(self) -> Tensor | None:
        whole = self._column(LOGITS)
        if whole is not None or any(name not in self._columns for name in _TOP):
            return whole
        values, log_rest = self._column(TOP_VALUES), self._column(LOG_REST)
        assert values is not None and log_rest is not None
        count = self._num_classes or (0 if self._shape is None else self._shape[-1])
        if count == 0 or (self._model not in _checked and not torch.compiler.is_compiling()):
            stored = int(self._columns[CLASSES].max())
            count = count or stored
            self._require(stored, count)
            if self._model is not None:
                _checked.add(self._model)
        return restore_top_k(values, self._columns[TOP_INDICES].to(self._device), log_rest, count)

    @staticmethod
    def _require(stored: int, wanted: int) -> None:
        if stored != wanted:
            raise ValueError(
                f"The stored logits of the teacher are of {stored} classes where {wanted} are expected: they cannot "
                "be compared with the student's. Give the student the teacher's classes (`num_labels`, `id2label`), "
                "or cache a teacher that was trained for the student's."
            )

    def _online(self, what: str) -> TeacherOutput:
        if self._run is None:
            stored = ", ".join(sorted(name for name in self._columns if is_cached(name)))
            raise ValueError(
                f"The teacher's {what} are needed and the batch holds {stored or 'no columns `teacher_*`'}: there is "
                "no model to ask. Store them too, `cache_teacher(..., features=True, hidden_states=[...])`, or give "
                "the objective the teacher itself."
            )
        if self._said is None:
            self._said = self._run()
        return self._said


class _HiddenStates(Mapping[str, Tensor]):
    """Those that are stored; any other is asked for."""

    def __init__(self, output: CachedOutput, names: list[str]):
        self._output, self._names = output, names

    def __getitem__(self, name: str) -> Tensor:
        found = self._output._column(f"{HIDDEN}{name}")
        return self._output._online(f"{HIDDEN}{name}").hidden_states[name] if found is None else found

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_columns(
    batch: TransferBatch,
    *,
    align: Callable[[Tensor], Tensor] | None = None,
    num_classes: int | None = None,
    run: Callable[[], TeacherOutput] | None = None,
) -> CachedOutput | None:
    """
    What the columns of a batch hold of a teacher; `None` if there are none.

    Args:
        batch (`TransferBatch`): with the columns that [`cache_teacher`] made.
        align (`Callable`, *optional*): as for [`CachedOutput`].
        num_classes (`int`, *optional*): as for [`CachedOutput`].
        run (`Callable`, *optional*): as for [`CachedOutput`].

    Raises:
        ValueError: if the rows of the batch are not those that the teacher saw.

    Example:
        >>> batch = TransferBatch(features=torch.zeros(2, 4), columns={"teacher_logits": torch.ones(2, 3)})
        >>> read_columns(batch).logits.shape
        torch.Size([2, 3])
    """
    found = any(is_cached(name) for name in batch.columns)
    return CachedOutput(batch, align=align, num_classes=num_classes, run=run) if found else None


def _refuse_other_inputs(batch: TransferBatch) -> None:
    """Refuse inputs that an objective changed after the teacher saw them."""
    objectives = getattr(batch.model, CHILD, None)
    changing = [
        type(objective).__name__
        for objective in (() if objectives is None else objectives.values())
        if objective.transforms and objective.alters_rows
    ]
    if changing or "mixed_with" in batch.columns:
        raise ValueError(
            f"{', '.join(changing) or 'Mixup'} changes the inputs of each batch, and the columns `teacher_*` hold "
            "what the teacher said of the rows as they were: the student would learn the answers to other inputs. "
            "Remove these columns (`dataset.remove_columns`) and give the objective the teacher itself, which then "
            "sees the changed inputs, or take the objective that changes them out."
        )
