from __future__ import annotations

import dataclasses
import enum
import hashlib
import sys

import numpy as np
import pytest
import torch
import xxhash

from hf_transfer.features.cache.checksums import (
    bytes_digest,
    new_checksum,
    object_digest,
    plain,
    tensor_digest,
    text_digest,
)


class Number(enum.IntEnum):
    ONE = 1


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Size:
    height: int
    width: int


def test_the_algorithms():
    assert bytes_digest(b"abc") == xxhash.xxh3_128_hexdigest(b"abc")
    assert text_digest("ä") == hashlib.sha256("ä".encode()).hexdigest()[:32]


def test_without_xxhash(monkeypatch):
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(
        ImportError, match=r"xxhash, .* is not installed - nothing can be stored .* - run `pip install"
    ):
        new_checksum()


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64),
        *(torch.bool, torch.uint8, torch.int8, torch.int64),
    ],
)
def test_every_bit_of_every_type_counts(dtype):
    size = torch.empty(0, dtype=dtype).element_size()
    values = torch.zeros(3, 4, dtype=dtype)
    digest = tensor_digest(values)
    assert digest == tensor_digest(values.clone())
    for byte in range(0, 12 * size):
        changed = values.clone()
        changed.view(-1).view(torch.uint8)[byte] ^= 1
        assert tensor_digest(changed) != digest


def test_shape_and_type_count():
    values = torch.zeros(2, 6)
    others = [values.view(3, 4), values.view(12), values.int(), values.half(), torch.zeros(2, 5), torch.zeros(())]
    assert len({tensor_digest(tensor) for tensor in [values, *others]}) == 7


def test_strides_do_not_count_and_their_meaning_does():
    values = torch.arange(12.0).view(3, 4)
    assert tensor_digest(values.t().contiguous().t()) == tensor_digest(values)
    assert tensor_digest(values.t()) == tensor_digest(values.t().contiguous()) != tensor_digest(values.reshape(4, 3))
    assert tensor_digest(values[::2]) == tensor_digest(values[::2].clone())
    assert tensor_digest(torch.ones(1).expand(5)) == tensor_digest(torch.ones(5))
    complex_values = torch.complex(values, values + 1)
    assert tensor_digest(complex_values.conj()) == tensor_digest(complex_values.conj().resolve_conj())
    assert tensor_digest(complex_values.conj()) != tensor_digest(complex_values)


def test_sparse_tensors_by_their_values():
    dense = torch.eye(3)
    assert tensor_digest(dense.to_sparse()) == tensor_digest(dense) != tensor_digest((dense * 2).to_sparse())


def test_a_tensor_made_of_tensors():
    class Quantised(torch.Tensor):
        @staticmethod
        def __new__(cls, values, scale):
            return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)

        def __init__(self, values, scale):
            self.values, self.scale = values, scale

        def __tensor_flatten__(self):
            return ["values", "scale"], None

        @classmethod
        def __torch_dispatch__(cls, function, types, arguments=(), options=None):
            return arguments[0]  # only `detach` is asked for

    values, scale = torch.arange(4, dtype=torch.int8), torch.ones(1)
    digest = tensor_digest(Quantised(values, scale))
    assert digest == tensor_digest(Quantised(values.clone(), scale.clone()))
    assert digest != tensor_digest(Quantised(values, scale * 2))
    assert digest != tensor_digest(Quantised(values + 1, scale))


def test_a_tensor_without_data_is_refused():
    message = (
        r"`layer.weight` is on the meta device and has no data - models could not be told apart - load the weights"
    )
    with pytest.raises(ValueError, match=message):
        tensor_digest(torch.empty(2, device="meta"), "layer.weight")


def test_plain_values_are_told_apart():
    values = [
        *(None, True, 1, 2, 1.0, 0.1, "1", "True", [1], [[1]], {"1": 2}, {"a": 1}, {"a": 1.0}, {1, 2}, {1, "2"}),
        *(Color.RED, Color.BLUE, Size(1, 2), Size(2, 1), np.float32(3), np.zeros(2), np.zeros((1, 2)), np.ones(2)),
        *(np.zeros(2, "int64"), torch.zeros(2), torch.ones(2), torch.float32, torch.device("cpu"), float("inf")),
    ]
    texts = [repr(plain(value)) for value in values]
    assert len(set(texts)) == len(texts)


def test_plain_values_that_are_the_same():
    assert plain((1, 2)) == plain([1, 2])
    assert plain({"b": 1, "a": 2}) == plain({"a": 2, "b": 1})
    assert plain({"x", "y", "z"}) == plain({"z", "y", "x"}) == plain(frozenset("xyz"))
    assert plain(np.zeros((2, 3))) == plain(np.zeros((3, 2)).T) and plain(np.int64(3)) == plain(3)
    assert plain(Number.ONE) == plain(1)
    assert plain(len) == plain(len) != plain(sum)


def test_an_object_that_cannot_be_pickled():
    with pytest.raises(TypeError, match=r"An object of type .*Unpicklable cannot be pickled \(no\) - .* - use a"):
        object_digest(Unpicklable())


class Unpicklable:
    def __reduce__(self):
        raise TypeError("no")
