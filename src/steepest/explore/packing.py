"""A grid of states as one compact block of bytes for the page.

Layout, all little-endian: length of the header (uint32), header (JSON, UTF-8), tables (int32), rows (int16).
Rows of one length lie in one pool and are stored once however many marks use them. Rows and tables are
stored as differences along their last axis, split into planes of equally significant bytes (both make gzip's
work easier). The header says for every field of every mark which table maps a combination of stops to a row.
"""

import base64
import gzip
import json
import struct
from typing import Any

import numpy as np

from .controls import Control
from .encoding import GAP, axis_extent, axis_frame
from .grid import Grid, MarkData
from .marks import Mark
from .panels import Axis


def pack(grid: Grid) -> bytes:
    """The block, not yet compressed."""
    pools = _Pools()
    tables: list[np.ndarray] = []
    strings: dict[str, int] = {}

    def table(cells: np.ndarray) -> int:
        tables.append(cells.ravel())
        return len(tables) - 1

    panels = []
    for panel, marks in zip(grid.template.panels, grid.marks, strict=True):
        panels.append(
            {
                "title": panel.title,
                "x": _axis_header(panel.x),
                "y": _axis_header(panel.y),
                "equal": panel.equal,
                "marks": [
                    _mark_header(mark, data, pools, table, strings)
                    for mark, data in zip(panel.marks, marks, strict=True)
                ],
            }
        )
    depends, cells = _varying(grid.alt_cells, list(grid.controls))
    alts = list(dict.fromkeys(cells.ravel().tolist()))
    lookup = np.zeros(len(grid.alts), int)
    lookup[alts] = np.arange(len(alts))
    alt = {"depends": depends, "table": table(lookup[cells]), "texts": [grid.alts[i] for i in alts]}
    header = {
        "controls": [control_header(name, control) for name, control in grid.controls.items()],
        "panels": panels,
        "alt": alt,
        "strings": list(strings),
        "tables": [values.size for values in tables],
        "pools": [[length, len(rows)] for length, rows in pools.rows.items()],
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    body = [_planes(_differences(np.concatenate(tables).astype("<i4")))]
    rows = [_differences(np.frombuffer(b"".join(rows), "<i2").reshape(len(rows), -1)) for rows in pools.rows.values()]
    body.append(_planes(np.concatenate([np.zeros(0, "<i2"), *(part.ravel() for part in rows)])))
    return struct.pack("<I", len(text)) + text + b"".join(body)


def unpack(block: bytes) -> tuple[dict[str, Any], list[np.ndarray], dict[int, np.ndarray]]:
    """Header, tables, and pools of rows by their length: what the front end reads, for tests and tools."""
    (length,) = struct.unpack_from("<I", block)
    header = json.loads(block[4 : 4 + length])
    at = 4 + length
    sizes = header["tables"]
    values = np.cumsum(_from_planes(block[at : at + 4 * sum(sizes)], "<i4"), dtype=np.int32)
    tables = np.split(values, np.cumsum(sizes)[:-1])
    rows = _from_planes(block[at + 4 * sum(sizes) :], "<i2")
    pools, start = {}, 0
    for length, count in header["pools"]:
        part = rows[start : start + length * count].reshape(count, length)
        pools[length] = np.cumsum(part, axis=1, dtype=np.int16)
        start += length * count
    return header, tables, pools


def compress(block: bytes) -> bytes:
    """gzip without a time stamp: the same figure gives the same bytes."""
    return gzip.compress(block, compresslevel=9, mtime=0)


def pack_within(grid: Grid, byte_budget: int) -> str:
    """The grid packed, compressed and in base64.

    Raises:
        ValueError: if it takes more than `byte_budget` compressed bytes; names the control to thin and how many
            bytes each one costs.
    """
    data = compress(pack(grid))
    if len(data) > byte_budget:
        costs = {
            name: len(data) - len(compress(pack(held_at_default(grid, name))))
            for name, control in grid.controls.items()
            if len(control.values) > 1
        }
        listed = ", ".join(f"{name} {cost:,}" for name, cost in sorted(costs.items(), key=lambda item: -item[1]))
        advice = f"thin out the stops of {max(costs, key=costs.__getitem__)!r}" if costs else "thin out its arrays"
        raise ValueError(
            f"the figure takes {len(data):,} bytes, more than its budget of {byte_budget:,}: {advice}"
            + (f" (bytes that each control adds: {listed})" if costs else "")
        )
    return base64.b64encode(data).decode()


def held_at_default(grid: Grid, name: str) -> Grid:
    """The part of the grid in which control `name` rests at its default."""
    control = grid.controls[name]
    at = control.index(control.default)

    def hold(depends: tuple[str, ...], cells: np.ndarray) -> np.ndarray:
        return cells.take([at], axis=depends.index(name)) if name in depends else cells

    marks = [
        [MarkData(data.depends, hold(data.depends, data.cells), data.knots, data.variants) for data in row]
        for row in grid.marks
    ]
    kept = {**grid.controls, name: Control(control.kind, (control.default,), control.default, control.label)}
    return Grid(kept, grid.template, marks, grid.alts, hold(tuple(grid.controls), grid.alt_cells))


class _Pools:
    """Rows by length, each kept once."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[bytes, int]] = {}

    def add(self, row: np.ndarray) -> int:
        rows = self.rows.setdefault(row.size, {})
        return rows.setdefault(row.astype("<i2").tobytes(), len(rows))


def _mark_header(mark: Mark, data: MarkData, pools: _Pools, table: Any, strings: dict[str, int]) -> dict[str, Any]:
    used = list(dict.fromkeys(data.cells.ravel().tolist()))
    variants = {number: _padded(data.variants[number][0], data, used) for number in used}
    fields = {}
    for name in variants[used[0]]:
        rows = np.zeros(len(data.variants), int)
        for number in used:
            rows[number] = pools.add(variants[number][name])
        fields[name] = [variants[used[0]][name].size, table(rows[data.cells])]
    header = {"kind": mark.kind, **mark.options, "depends": data.depends, "fields": fields}
    if mark.strings:
        words = np.zeros((len(data.variants), len(mark.strings)), int)
        for number in used:
            words[number] = [strings.setdefault(word, len(strings)) for word in data.variants[number][1]]
        header["strings"] = [len(mark.strings), table(words[data.cells])]
    if mark.kind == "contour":
        header["knots"] = data.knots
    if mark.kind in ("contour", "heatmap", "image"):
        header["shape"] = mark.arrays["pixels" if mark.kind == "image" else "z"].shape
    if mark.reveal:
        header["reveal"] = mark.reveal
    return header


def _padded(fields: dict[str, np.ndarray], data: MarkData, used: list[int]) -> dict[str, np.ndarray]:
    """Fields of one variant, as long as the longest, with an index where any variant has one (cut lines)."""
    others = [data.variants[number][0] for number in used]
    if not any("index" in other for other in others):
        return fields
    size = max(other["x"].size for other in others)
    index = fields.get("index", np.arange(fields["x"].size, dtype=np.int16))
    more = size - index.size
    return {
        "x": np.pad(fields["x"], (0, more), constant_values=GAP),
        "y": np.pad(fields["y"], (0, more), constant_values=GAP),
        "index": np.pad(index, (0, more), mode="edge"),
    }


def _varying(cells: np.ndarray, names: list[str]) -> tuple[list[str], np.ndarray]:
    """The controls that `cells` varies with, and its values for their combinations."""
    kept = []
    for name in names:
        dimension = len(kept)
        first = cells.take([0], axis=dimension)
        if (cells == first).all():
            cells = first.squeeze(dimension)
        else:
            kept.append(name)
    return kept, cells


def control_header(name: str, control: Control) -> dict[str, Any]:
    """What the front end knows of a control."""
    return {
        "name": name,
        "kind": control.kind,
        "values": control.values,
        "default": control.default,
        "label": control.label,
        "unit": control.unit,
        "play": control.play,
    }


def _axis_header(axis: Axis) -> dict[str, Any]:
    return {
        "label": axis.title,
        "scale": axis.scale,
        "domain": axis.domain,
        "categories": axis.categories,
        "frame": axis_frame(axis),
        "extent": axis_extent(axis),
    }


def _differences(rows: np.ndarray) -> np.ndarray:
    return np.diff(rows, axis=-1, prepend=np.zeros((*rows.shape[:-1], 1), rows.dtype))


def _planes(values: np.ndarray) -> bytes:
    return values.reshape(-1, 1).view(np.uint8).T.tobytes()


def _from_planes(data: bytes, dtype: str) -> np.ndarray:
    planes = np.frombuffer(data, np.uint8).reshape(np.dtype(dtype).itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).ravel()
