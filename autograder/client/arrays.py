"""Typed values as bytes and back, without pickle.

Layout, little-endian: the magic ``STEEPEST`` (8 bytes), the length of the header (uint64), a JSON
header, then the raw bytes of all arrays, one after another in the header's order. The header is a
list of entries ``[name, kind, detail]``; an array's detail is ``[dtype, shape]``. Floats are written
in hexadecimal, so they survive exactly. The decoder trusts nothing: every size is checked against
the data that is really there before anything is allocated.
"""

import json
import math

import numpy as np
import torch

MAGIC = b"STEEPEST"
MAX_BYTES = 64 * 2**20
MAX_DIMENSIONS = 8

_SHARED = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
TORCH_DTYPES = {name: getattr(torch, name) for name in (*_SHARED, "bfloat16", "float8_e4m3fn", "float8_e5m2")}
NUMPY_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in (*_SHARED, "uint16", "uint32", "uint64")}


class DecodeError(ValueError):
    """The bytes are not what `encode` writes, or are larger than allowed."""


def dtype_name(value: torch.Tensor | np.ndarray) -> str:
    """Name of the element type without its library's prefix.

    >>> dtype_name(torch.zeros(2, dtype=torch.bfloat16)), dtype_name(np.zeros(2))
    ('bfloat16', 'float64')
    """
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else value.dtype.name


def raw_bytes(value: torch.Tensor | np.ndarray) -> bytes:
    """Elements of an array in C order, little-endian, bit for bit (bfloat16 and float8 included)."""
    if isinstance(value, np.ndarray):
        return value.astype(NUMPY_DTYPES[value.dtype.name], copy=False).tobytes()
    flat = value.detach().to("cpu").resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def encode(values: dict) -> bytes:
    """Write named values as bytes.

    Args:
        values: name → torch.Tensor (any device; gradients are dropped), numpy.ndarray, bool, int,
            float, str or None.

    Returns:
        Bytes that `decode` turns back into equal values of the same types and dtypes.

    Raises:
        TypeError: a name is not a string, or a value's type or dtype is not on the list (complex
            numbers, objects and sparse tensors are not).

    >>> decode(encode({"point": torch.tensor([1.0, 2.0]), "damping": 0.1, "note": None}))
    {'point': tensor([1., 2.]), 'damping': 0.1, 'note': None}
    """
    entries, blocks = [], []
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(f"names are strings, got {name!r}")
        if isinstance(value, (torch.Tensor, np.ndarray)):
            kind, known = ("torch", TORCH_DTYPES) if isinstance(value, torch.Tensor) else ("numpy", NUMPY_DTYPES)
            dtype = dtype_name(value)
            if dtype not in known or (kind == "torch" and value.layout != torch.strided):
                raise TypeError(f"{name!r}: arrays of dtype {dtype} cannot be carried; allowed: {sorted(known)}")
            if value.ndim > MAX_DIMENSIONS:
                raise TypeError(f"{name!r}: {value.ndim} dimensions, at most {MAX_DIMENSIONS} can be carried")
            entries.append([name, kind, [dtype, list(value.shape)]])
            blocks.append(raw_bytes(value))
        elif value is None or isinstance(value, (bool, str)):
            entries.append([name, "plain", value])
        elif isinstance(value, int):
            entries.append([name, "int", str(int(value))])
        elif isinstance(value, float):
            entries.append([name, "float", float(value).hex()])
        else:
            raise TypeError(f"{name!r}: values of type {type(value).__name__} cannot be carried")
    header = json.dumps(entries, separators=(",", ":")).encode("ascii")
    return b"".join([MAGIC, len(header).to_bytes(8, "little"), header, *blocks])


def decode(data: bytes, max_bytes: int = MAX_BYTES) -> dict:
    """Read what `encode` wrote; safe on hostile bytes.

    Args:
        data: the bytes.
        max_bytes: refuse longer data.

    Returns:
        Name → value. Arrays own their memory and may be written to.

    Raises:
        DecodeError: the data is too long, cut short, has bytes left over, or an entry is malformed.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"{len(data)} bytes, at most {max_bytes} are accepted")
    if data[:8] != MAGIC or len(data) < 16:
        raise DecodeError("this is not array data: the first bytes are wrong or missing")
    start = 16 + int.from_bytes(data[8:16], "little")
    if start > len(data):
        raise DecodeError("the header is longer than the data")
    try:
        entries = json.loads(bytes(data[16:start]))
    except (ValueError, RecursionError) as error:
        raise DecodeError("the header is not JSON") from error
    if not isinstance(entries, list):
        raise DecodeError("the header is not a list of entries")
    values = {}
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str)):
            raise DecodeError("an entry is not [name, kind, detail]")
        name, kind, detail = entry
        if name in values:
            raise DecodeError(f"the name {name!r} occurs twice")
        if kind in ("torch", "numpy"):
            size, make = _array(name, kind, detail)
            if start + size > len(data):
                raise DecodeError(f"{name!r} is longer than the data")
            values[name] = make(data[start : start + size])
            start += size
        else:
            values[name] = _scalar(name, kind, detail)
    if start != len(data):
        raise DecodeError(f"{len(data) - start} bytes are left over")
    return values


def _array(name, kind, detail):
    """Bytes that the array takes, and a function that makes it from them."""
    if not (isinstance(detail, list) and len(detail) == 2 and isinstance(detail[1], list)):
        raise DecodeError(f"{name!r} is not described by [dtype, shape]")
    dtype_text, shape = detail
    known = TORCH_DTYPES if kind == "torch" else NUMPY_DTYPES
    if not isinstance(dtype_text, str) or dtype_text not in known:
        raise DecodeError(f"{name!r} has the unknown dtype {str(dtype_text)[:40]!r}")
    if len(shape) > MAX_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
        raise DecodeError(f"{name!r} has no valid shape")
    # Strides are products of sizes too, so an empty array with huge other sizes must be refused.
    if math.prod(max(size, 1) for size in shape) > 2**40:
        raise DecodeError(f"{name!r} has an impossible shape")
    dtype = known[dtype_text]
    size = math.prod(shape) * dtype.itemsize

    def make(block):
        if dtype_text == "bool" and max(block, default=0) > 1:
            raise DecodeError(f"{name!r} holds bytes that are not booleans")
        if kind == "numpy":
            return np.frombuffer(block, dtype=dtype).astype(dtype.newbyteorder("=")).reshape(shape)
        if not block:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(block), dtype=dtype).reshape(shape)

    return size, make


def _scalar(name, kind, detail):
    if kind == "plain" and (detail is None or isinstance(detail, (bool, str))):
        return detail
    if kind in ("int", "float") and isinstance(detail, str) and len(detail) <= 400:
        try:
            return int(detail) if kind == "int" else float.fromhex(detail)
        except (ValueError, OverflowError) as error:
            raise DecodeError(f"{name!r} is not a number") from error
    raise DecodeError(f"{name!r} has the unknown kind {str(kind)[:40]!r} or a malformed value")
