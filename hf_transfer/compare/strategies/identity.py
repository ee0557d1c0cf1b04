"""What tells one strategy from another after a restart: plain values, functions by name and code."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
from torch import Tensor


_PLAIN = (bool, int, float, str, type(None))

__all__ = ["identity_of"]


def identity_of(value: Any) -> Any:
    """
    A value as JSON can hold it, the same in every process and another where the value behaves differently.

    Functions are their qualified name and a digest of their code: bytecode, constants, defaults, what they close over,
    and the functions, classes and plain values of their own module that they use. So a lambda or an objective that was
    edited in a notebook is another one.

    What it cannot see: code of other modules that is called, values that change after this call, and what lies outside
    Python. It differs between versions of Python, whose bytecode differs.

    Args:
        value (`Any`): data, functions, classes, or objects made of these.

    Example:
        >>> identity_of({"b": (1, 2), "a": {3}})
        {'a': [3], 'b': [1, 2]}
        >>> identity_of(lambda: 1) == identity_of(lambda: 2)
        False
    """
    return _identity(value, set())


def _identity(value: Any, seen: set[int]) -> Any:
    if isinstance(value, Enum):
        return _identity(value.value, seen)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (set, frozenset)):
        return sorted((_identity(one, seen) for one in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_identity(one, seen) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _identity(value[key], seen) for key in sorted(value, key=str)}
    if isinstance(value, (Tensor, np.ndarray)):
        return _array(value)
    if isinstance(value, functools.partial):
        return {"partial": [_identity(part, seen) for part in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.MethodType):
        return {"method": [_identity(value.__func__, seen), _identity(value.__self__, seen)]}
    known = id(value) in seen  # functions and classes may use each other
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        return _name(value) if known else f"{_name(value)}#{_digest(_function(value, seen))}"
    if isinstance(value, type):
        own = known or value.__module__.split(".")[0] in ("builtins", "hf_transfer", "torch", "transformers")
        return _name(value) if own else f"{_name(value)}#{_digest(_class(value, seen))}"
    if not known and not isinstance(value, types.ModuleType) and hasattr(value, "__dict__"):
        return {_name(type(value)): _identity(vars(value), seen)}
    return _name(value if hasattr(value, "__qualname__") else type(value))


def _function(function: types.FunctionType, seen: set[int]) -> Any:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    own = {}
    for name in _names(function.__code__):
        used = function.__globals__.get(name)
        if isinstance(used, _PLAIN) or getattr(used, "__module__", None) == function.__module__:
            own[name] = used
    parts = (function.__defaults__, function.__kwdefaults__, cells, own)
    return [_code(function.__code__), *(_identity(part, seen) for part in parts)]


def _class(made: type, seen: set[int]) -> Any:
    """Methods and plain attributes of a class, and its parents."""
    found: dict[str, Any] = {"parents": [_identity(parent, seen) for parent in made.__bases__]}
    for name, value in sorted(vars(made).items()):
        own: Any = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        own = inspect.unwrap(own)
        if isinstance(own, types.FunctionType) or (isinstance(own, _PLAIN) and not name.startswith("__")):
            found[name] = _identity(own, seen)
    return found


def _code(code: types.CodeType) -> Any:
    constants = [_code(one) if isinstance(one, types.CodeType) else repr(_constant(one)) for one in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _constant(value: Any) -> Any:
    """A constant whose `repr` does not depend on the order of a set."""
    return sorted(value, key=repr) if isinstance(value, frozenset) else value


def _names(code: types.CodeType) -> list[str]:
    """The global names that a piece of code, or one inside it, may use."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return sorted({*code.co_names, *(name for names in inner for name in names)})


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None or True
    except ValueError:  # of a variable that is not set yet
        return False


def _array(value: Tensor | np.ndarray) -> str:
    array = value.detach().cpu().float().numpy() if isinstance(value, Tensor) else value
    return f"{value.dtype}{list(value.shape)}#{hashlib.sha256(array.tobytes()).hexdigest()[:12]}"


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
