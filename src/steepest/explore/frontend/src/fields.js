// Marks that fill the frame: contours, heatmaps, images.
import { contours } from "d3-contour";
import { dequantise } from "./dataset.js";
import { set, svg } from "./dom.js";
import { DIVERGING, rampTable, SEQUENTIAL } from "./palette.js";

const n = (value) => value.toFixed(1);
const KEPT = 48;
const DEEPEST = 26;

export class Contour {
  constructor(mark, identity, clip) {
    this.mark = mark;
    this.element = svg("g", { class: "steepest-mark steepest-contour", "clip-path": clip });
    this.fills = mark.levels.map((_, i) => svg("path", { class: "steepest-contour-fill", style: `--steepest-depth: ${(DEEPEST * (i + 1)) / mark.levels.length}%` }));
    this.lines = svg("path", { ...identity, class: "steepest-contour-lines" });
    this.element.append(...this.fills, this.lines);
    this.drawn = new Map();
  }

  draw(frame, { row, mark, key: rows }) {
    const key = `${frame.key}:${rows}`;
    if (!this.drawn.has(key)) {
      if (this.drawn.size >= KEPT) this.drawn.clear();
      this.drawn.set(key, this.trace(frame, row, mark.knots));
    }
    const { fills, lines } = this.drawn.get(key);
    fills.forEach((d, i) => this.fills[i].setAttribute("d", d));
    this.lines.setAttribute("d", lines);
  }

  trace(frame, row, knots) {
    const [rows, columns] = this.mark.shape;
    const values = heights(row("z"), knots);
    const [left, right] = Array.from(row("x"), (value) => frame.x(dequantise(value, ...frame.extentX)));
    const [bottom, top] = Array.from(row("y"), (value) => frame.y(dequantise(value, ...frame.extentY)));
    // d3 puts sample (i, j) at (i + 0.5, j + 0.5).
    const px = ([i, j]) => [left + ((i - 0.5) / (columns - 1)) * (right - left), bottom + ((j - 0.5) / (rows - 1)) * (top - bottom)];
    let lines = "";
    const fills = contours().size([columns, rows]).thresholds(this.mark.levels)(values).map((level) => {
      let d = "";
      for (const polygon of level.coordinates) {
        for (const ring of polygon) {
          const points = ring.map(px);
          d += `M${points.map(([x, y]) => `${n(x)},${n(y)}`).join("L")}Z`;
          lines += withoutBorder(ring, points, columns, rows);
        }
      }
      return d;
    });
    return { fills, lines };
  }
}

// Heights from the piecewise linear scale over the knots.
function heights(integers, knots) {
  const values = new Float64Array(integers.length);
  for (let i = 0; i < integers.length; i++) {
    const scaled = dequantise(integers[i], 0, knots.length - 1);
    const low = Math.min(Math.floor(scaled), knots.length - 2);
    values[i] = knots[low] + (scaled - low) * (knots[low + 1] - knots[low]);
  }
  return values;
}

// A ring as strokes that leave out what runs along the border of the grid: no level line is there.
function withoutBorder(ring, points, columns, rows) {
  const edge = (a, b, size) => a === b && (a <= 0.5 || a >= size - 0.5);
  let d = "";
  let open = false;
  for (let i = 1; i < ring.length; i++) {
    const outside = (p) => p[0] < 0.5 || p[1] < 0.5 || p[0] > columns - 0.5 || p[1] > rows - 0.5;
    const border = edge(ring[i - 1][0], ring[i][0], columns) || edge(ring[i - 1][1], ring[i][1], rows) || (outside(ring[i - 1]) || outside(ring[i]));
    if (!border) d += `${open ? "" : `M${n(points[i - 1][0])},${n(points[i - 1][1])}`}L${n(points[i][0])},${n(points[i][1])}`;
    open = !border;
  }
  return d;
}

class Raster {
  constructor(mark, identity, clip) {
    this.mark = mark;
    this.canvas = document.createElement("canvas");
    [this.canvas.height, this.canvas.width] = mark.shape;
    this.context = this.canvas.getContext("2d");
    this.element = svg("image", { ...identity, class: "steepest-mark steepest-raster", preserveAspectRatio: "none", "clip-path": clip });
  }

  draw(frame, { row }) {
    const { width, height } = this.canvas;
    const picture = this.context.createImageData(width, height);
    this.paint(picture.data, row, width, height);
    this.context.putImageData(picture, 0, 0);
    const [left, right] = Array.from(row("x"), (value) => frame.x(dequantise(value, ...frame.extentX)));
    const [bottom, top] = Array.from(row("y"), (value) => frame.y(dequantise(value, ...frame.extentY)));
    set(this.element, { href: this.canvas.toDataURL(), x: left, y: top, width: right - left, height: bottom - top });
  }
}

export class Heatmap extends Raster {
  constructor(mark, identity, clip) {
    super(mark, identity, clip);
    this.colours = rampTable(rampOf(mark));
  }

  paint(pixels, row, width, height) {
    const z = row("z");
    for (let j = 0; j < height; j++) {
      for (let i = 0; i < width; i++) {
        const colour = this.colours[Math.round(dequantise(z[(height - 1 - j) * width + i], 0, 255))];
        pixels.set([...colour, 255], 4 * (j * width + i));
      }
    }
  }
}

export class Picture extends Raster {
  paint(pixels, row, width, height) {
    const values = row("pixels");
    const channels = values.length / (width * height);
    for (let i = 0; i < width * height; i++) {
      for (let c = 0; c < 3; c++) pixels[4 * i + c] = values[i * channels + Math.min(c, channels - 1)];
      pixels[4 * i + 3] = 255;
    }
  }
}

export const rampOf = (mark) => (mark.domain[0] === -mark.domain[1] ? DIVERGING : SEQUENTIAL);
