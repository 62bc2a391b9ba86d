"""The codec: exact round trips, and refusal of everything that `encode` does not write."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autograder.client.arrays import MAGIC, NUMPY_DTYPES, TORCH_DTYPES, DecodeError, decode, encode


def with_header(entries, blocks=b""):
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return MAGIC + len(header).to_bytes(8, "little") + header + blocks


@pytest.mark.parametrize("name", sorted(TORCH_DTYPES))
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3)])
def test_torch_tensors_survive_bit_for_bit(name, shape):
    count = math.prod(shape) * TORCH_DTYPES[name].itemsize
    pattern = torch.arange(count, dtype=torch.uint8) * 37 + 11
    pattern = pattern % 2 if name == "bool" else pattern
    tensor = pattern.view(TORCH_DTYPES[name]).reshape(shape) if count else torch.empty(shape, dtype=TORCH_DTYPES[name])
    back = decode(encode({"x": tensor}))["x"]
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(back.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    back.zero_()  # the memory is its own, and writable


@pytest.mark.parametrize("name", sorted(NUMPY_DTYPES))
def test_numpy_arrays_survive_with_their_dtype(name):
    array = np.arange(6).reshape(2, 3).astype(name)
    back = decode(encode({"x": array}))["x"]
    assert back.dtype == array.dtype and np.array_equal(back, array)
    back[0, 0] = 1


def test_big_endian_arrays_are_read_by_value():
    assert np.array_equal(decode(encode({"x": np.array([1.5, -2.0], dtype=">f8")}))["x"], [1.5, -2.0])


def test_views_and_gradients_are_carried_by_value():
    tensor = torch.arange(12.0).reshape(3, 4)
    values = {"transposed": tensor.T, "strided": tensor[:, ::2], "leaf": tensor.clone().requires_grad_()}
    back = decode(encode(values))
    for name, value in values.items():
        assert torch.equal(back[name], value.detach())
        assert not back[name].requires_grad


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.dictionaries(st.text(), scalars))
def test_scalars_survive_with_their_type(values):
    back = decode(encode(values))
    assert list(back) == list(values)
    for name, value in values.items():
        assert type(back[name]) is type(value)
        assert back[name] == value or (value != value and back[name] != back[name])


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2, dtype=torch.complex64), np.zeros(2, dtype=complex), np.array([object()]), torch.eye(2).to_sparse(),
     np.array(["a"]), torch.zeros((1,) * 9), object(), [1], {"a": 1}, 1j],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="'x'"):
        encode({"x": value})


def test_names_must_be_strings():
    with pytest.raises(TypeError, match="strings"):
        encode({1: 2})


HOSTILE = {
    "empty": b"",
    "wrong magic": b"x" * 40,
    "header longer than the data": MAGIC + (2**63).to_bytes(8, "little") + b"[]",
    "header is not JSON": with_header(b"{"),
    "header is not UTF-8": with_header(b"\xff\xfe\xff"),
    "deeply nested header": with_header(b"[" * 100_000),
    "header is not a list": with_header({"a": 1}),
    "entry of another form": with_header([["x", "torch"]]),
    "name is not a string": with_header([[1, "plain", None]]),
    "same name twice": with_header([["x", "plain", True], ["x", "plain", None]]),
    "unknown kind": with_header([["x", "pickle", "abc"]]),
    "kind is a list": with_header([["x", ["torch"], None]]),
    "complex dtype": with_header([["x", "torch", ["complex64", [1]]]], b"\0" * 8),
    "object dtype": with_header([["x", "numpy", ["object", [1]]]], b"\0" * 8),
    "dtype is a list": with_header([["x", "numpy", [["float32"], [1]]]], b"\0" * 4),
    "negative size": with_header([["x", "torch", ["float32", [-1]]]]),
    "size is true": with_header([["x", "torch", ["uint8", [True]]]], b"\0"),
    "size is a float": with_header([["x", "torch", ["uint8", [1.0]]]], b"\0"),
    "too many dimensions": with_header([["x", "torch", ["uint8", [1] * 9]]], b"\0"),
    "array longer than the data": with_header([["x", "torch", ["float64", [2**30]]]], b"\0" * 8),
    "empty array of huge strides": with_header([["x", "torch", ["float32", [0, 2**62, 2**62]]]]),
    "bytes left over": with_header([["x", "torch", ["uint8", [1]]]], b"\0\0"),
    "bool that is neither": with_header([["x", "torch", ["bool", [1]]]], b"\x02"),
    "plain list": with_header([["x", "plain", [1]]]),
    "endless integer": with_header([["x", "int", "9" * 5000]]),
    "integer in words": with_header([["x", "int", "two"]]),
    "float out of range": with_header([["x", "float", "0x1p+99999"]]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name):
    with pytest.raises(DecodeError):
        decode(HOSTILE[name])


def test_every_truncation_is_refused():
    data = encode({"x": torch.arange(3.0), "y": 1, "z": "text"})
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            decode(data[:length])


def test_the_size_limit_is_checked_first():
    data = encode({"x": torch.zeros(100)})
    assert decode(data, max_bytes=len(data))
    with pytest.raises(DecodeError, match="at most"):
        decode(data, max_bytes=len(data) - 1)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damaged_data_never_raises_anything_else(noise, position):
    data = bytearray(encode({"x": torch.arange(4.0), "n": 3, "f": 0.5}))
    data[position : position + len(noise)] = noise
    try:
        decode(bytes(data))
    except DecodeError:
        return
