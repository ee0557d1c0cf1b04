"""Checksums of bytes, texts and plain values that are the same in every process."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


__all__ = ["bytes_digest", "class_name", "new_checksum", "object_digest", "plain", "tensor_digest", "text_digest"]


def new_checksum() -> Any:
    """
    An empty `xxhash.xxh3_128`: 128 bits, several GB/s, against accidents and not against forgers.

    Raises:
        ImportError: if xxhash is not installed.
    """
    try:
        import xxhash
    except ImportError as error:
        raise ImportError(
            "The checksums of the cache are taken by xxhash, which comes with `datasets` and is not installed - "
            'nothing can be stored without - run `pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    return xxhash.xxh3_128()


def text_digest(text: str) -> str:
    """The first 32 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def bytes_digest(data: Any) -> str:
    """The xxh3_128 of a bytes-like object, as 32 hex digits."""
    checksum = new_checksum()
    checksum.update(data)
    return checksum.hexdigest()


def tensor_digest(tensor: Tensor, name: str = "a tensor") -> str:
    """
    Type, shape and checksum of the values of a tensor, whatever its device and strides.

    Args:
        tensor (`Tensor`): of any type; one that is sharded over processes is gathered.
        name (`str`, *optional*): for the error.

    Raises:
        ValueError: if it has no data (meta device).
    """
    if tensor.is_meta:
        raise ValueError(
            f"`{name}` is on the meta device and has no data - models could not be told apart - load the weights "
            "first, with `from_pretrained`."
        )
    tensor = tensor.detach()
    if hasattr(tensor, "full_tensor"):  # a DTensor of FSDP2: all ranks come here in the same order
        tensor = tensor.full_tensor()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    head = f"{tensor.dtype} {tuple(tensor.shape)} "
    if hasattr(tensor, "__tensor_flatten__"):  # tensors made of tensors, as torchao quantises to
        names, context = tensor.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        inner = [tensor_digest(getattr(tensor, part), name) for part in names]
        return f"{head}{type(tensor).__name__} {context} {inner}"
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        head, tensor = f"{head}{tensor.qscheme()} ", tensor.int_repr()
    values = tensor.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return head + bytes_digest(values.view(torch.uint8).numpy())


def plain(value: Any) -> Any:
    """
    A value as JSON that is the same in every process: sets in order, arrays as checksums, other objects pickled.

    Example:
        >>> plain({"size": (2, 3), "layers": {"b", "a"}, "eps": 0.1})
        {'size': [2, 3], 'layers': ['"a"', '"b"'], 'eps': '0.1'}
    """
    if isinstance(value, enum.Enum):
        # an `IntEnum` is saved, and comes back, as a number
        return plain(value.value) if isinstance(value, (int, str)) else [class_name(value), plain(value.value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(plain(item), sort_keys=True) for item in value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [str(value.dtype), list(value.shape), bytes_digest(value.tobytes())]
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [class_name(value), plain(fields)]
    return [class_name(value), object_digest(value)]


def object_digest(value: Any) -> str:
    """
    A checksum of any object that can be pickled, by `datasets`.

    Raises:
        TypeError: if it cannot.
    """
    from datasets.fingerprint import Hasher

    try:
        return Hasher.hash(value)
    except Exception as error:  # dill passes on whatever the object raises
        raise TypeError(
            f"An object of type {class_name(value)} cannot be pickled ({error}) - features that depend on it could "
            "not be told from others - use a function or a class of a module, without open files or locks."
        ) from error


def class_name(value: Any) -> str:
    """Module and name of the class of an object."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
