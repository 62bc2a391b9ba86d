// Reads the block that packing.py writes: header, tables (int32), rows (int16), stored as differences in byte planes.

export const GAP = -32768;
const HALF = 32767;
const STEPS = 65534;

export async function gunzip(base64) {
  const bytes = Uint8Array.from(atob(base64.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export class Dataset {
  constructor(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const headerLength = view.getUint32(0, true);
    this.header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + headerLength)));
    let at = 4 + headerLength;
    const size = this.header.tables.reduce((sum, length) => sum + length, 0);
    this.tables = [];
    const values = runningSum(joinPlanes(bytes.subarray(at, at + 4 * size), Int32Array), size);
    for (let start = 0, i = 0; i < this.header.tables.length; start += this.header.tables[i++]) {
      this.tables.push(values.subarray(start, start + this.header.tables[i]));
    }
    at += 4 * size;
    const rows = joinPlanes(bytes.subarray(at), Int16Array);
    this.pools = new Map();
    let start = 0;
    for (const [length, count] of this.header.pools) {
      this.pools.set(length, runningSum(rows.subarray(start, start + length * count), length));
      start += length * count;
    }
    this.sizes = Object.fromEntries(this.header.controls.map((control) => [control.name, control.values.length]));
  }

  // Number of the combination of stops that `positions` (stop index by control) picks among `depends`.
  cell(depends, positions) {
    return depends.reduce((cell, name) => cell * this.sizes[name] + positions[name], 0);
  }

  // Which row a field shows: equal numbers mean equal values.
  rowNumber(mark, field, positions) {
    const [, table] = mark.fields[field];
    return this.tables[table][this.cell(mark.depends, positions)];
  }

  row(mark, field, positions) {
    const [length] = mark.fields[field];
    const start = length * this.rowNumber(mark, field, positions);
    return this.pools.get(length).subarray(start, start + length);
  }

  strings(mark, positions) {
    const [count, table] = mark.strings;
    const start = count * this.cell(mark.depends, positions);
    return Array.from(this.tables[table].subarray(start, start + count), (i) => this.header.strings[i]);
  }

  alt(positions) {
    const { depends, table, texts } = this.header.alt;
    return texts[this.tables[table][this.cell(depends, positions)]];
  }
}

// The number that an integer stands for on a scale from low to high.
export function dequantise(integer, low, high) {
  return low + ((integer + HALF) / STEPS) * (high - low);
}

function joinPlanes(bytes, Type) {
  const width = Type.BYTES_PER_ELEMENT;
  const count = bytes.length / width;
  const values = new Type(count);
  for (let plane = 0; plane < width; plane++) {
    for (let i = 0, at = plane * count; i < count; i++, at++) values[i] |= bytes[at] << (8 * plane);
  }
  return values;
}

// Undoes the differences within every row of `length` values, in place; integer arrays wrap around as they should.
function runningSum(values, length) {
  for (let start = 0; start < values.length; start += length) {
    for (let i = start + 1; i < start + length; i++) values[i] += values[i - 1];
  }
  return values;
}
