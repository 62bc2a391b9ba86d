"""Run a solution and write down what happened, as named values that `arrays.encode` can carry.

A *driver* is a function ``driver(solution, inputs) -> observations``. For a plain function it is one
`call`; for a class, an optimizer or an autograd Function it builds the object, runs it over the
inputs and records traces, counts and types. A driver need not catch exceptions: `observe` does.
"""

import torch

from .arrays import TORCH_DTYPES, dtype_name, raw_bytes

# Larger results are described (type, shape, dtype) and not copied: a wrong answer may be huge.
MAX_RESULT_BYTES = 2**24


def observe(driver, solution, inputs: dict) -> dict:
    """Run `driver` on a copy of `inputs`; an exception becomes an observation.

    Args:
        driver: ``driver(solution, inputs) -> dict`` of observations.
        solution: the function or class under test.
        inputs: name → value, as in a case. Never modified.

    Returns:
        The driver's observations with ``raised`` = None, or ``{"raised": kind, "message": text}``.
        The kind is the closest built-in class: ``LinAlgError`` is recorded as ``RuntimeError``.

    >>> observe(lambda solution, inputs: {"root": solution(inputs["x"])}, lambda x: x**0.5, {"x": 4.0})
    {'raised': None, 'root': 2.0}
    """
    copies = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    try:
        return {"raised": None} | driver(solution, copies)
    except Exception as error:
        return {"raised": _builtin_kind(error), "message": _describe_error(error, solution)}


def call(solution, arguments: dict) -> dict:
    """Call a function once and record its result and whether it left its inputs alone.

    Args:
        solution: the function. It gets the values of `arguments` by position, so that it may name
            its parameters as it likes.
        arguments: parameter name → value, in order. The names serve messages only.

    Returns:
        The observations of `record` and ``changed_inputs``, the names of the tensors that the call
        modified, separated by commas (empty: none).

    >>> call(lambda x: x.add_(1), {"x": torch.zeros(1)})["changed_inputs"]
    'x'
    """
    tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    before = {name: value.clone() for name, value in tensors.items()}
    result = solution(*arguments.values())
    changed = [name for name, value in tensors.items() if not _same(value, before[name])]
    return record(result) | {"changed_inputs": ", ".join(changed)}


def record(result, prefix: str = "") -> dict:
    """Describe one returned value.

    Args:
        result: whatever the solution returned.
        prefix: put before each name, for drivers that record several results (``"grad."``).

    Returns:
        ``type`` and, for a tensor, ``shape``, ``dtype`` and ``value`` (a detached copy). A tensor of a
        dtype that cannot be carried, or of more than 16 MiB, has no ``value``.

    >>> record(torch.tensor([1.0, 2.0]))
    {'type': 'torch.Tensor', 'shape': '(2,)', 'dtype': 'float32', 'value': tensor([1., 2.])}
    >>> record((1, 2)), record(None)
    ({'type': 'tuple of 2'}, {'type': 'None'})
    """
    observations = {"type": _type_name(result)}
    if isinstance(result, torch.Tensor):
        observations |= {"shape": str(tuple(result.shape)), "dtype": dtype_name(result)}
        fits = result.numel() * result.element_size() <= MAX_RESULT_BYTES
        if fits and dtype_name(result) in TORCH_DTYPES and result.layout == torch.strided:
            observations["value"] = result.detach().to("cpu").clone()
    elif isinstance(result, (bool, int, float)):
        observations["value"] = result
    return {prefix + name: value for name, value in observations.items()}


def arrange(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another memory layout.

    Args:
        tensor: any shape.
        layout: ``"contiguous"``, or ``"strided"``: every second element of a larger buffer along each
            dimension, with NaN (or the largest integer) in the gaps.

    Raises:
        ValueError: unknown layout.

    >>> arrange(torch.arange(6.0).reshape(2, 3), "strided").stride()
    (12, 2)
    """
    if layout == "contiguous":
        return tensor.contiguous()
    if layout != "strided":
        raise ValueError(f"layout is 'contiguous' or 'strided', got {layout!r}")
    gap = float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
    buffer = torch.full([2 * size for size in tensor.shape], gap, dtype=tensor.dtype, device=tensor.device)
    view = buffer[(slice(None, None, 2),) * tensor.ndim]
    view.copy_(tensor)
    return view


def _same(one, other):
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    # NaN differs from itself, so values that are not equal may still be the same bytes.
    return torch.equal(one, other) or raw_bytes(one) == raw_bytes(other)


def _type_name(value):
    if value is None:
        return "None"
    if isinstance(value, torch.Tensor):
        return "torch.Tensor"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _builtin_kind(error):
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")


def _describe_error(error, solution):
    """Class and text of an error, with the line of the learner's own code that it passed through."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    code = getattr(solution, "__code__", None)
    trace, line = error.__traceback__, None
    while trace is not None:
        if code is not None and trace.tb_frame.f_code.co_filename == code.co_filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return text if line is None else f"{text} (line {line} of your cell)"
