// One panel: its axes and marks in one SVG whose elements persist; only what changed is drawn again.
import { Bars, Rule, Words } from "./annotations.js";
import { drawAxis, labelWidth, scaleOf, tickCount } from "./axes.js";
import { html, set, svg, uniqueId } from "./dom.js";
import { Contour, Heatmap, Picture } from "./fields.js";
import { Line } from "./lines.js";
import { Readout } from "./readout.js";

const KINDS = { line: Line, contour: Contour, heatmap: Heatmap, image: Picture, bars: Bars, rule: Rule, text: Words };
const TOP = 26;
const BOTTOM = 44;
const RIGHT = 14;

export class Panel {
  constructor(header, number, caption) {
    this.header = header;
    this.number = number;
    const clip = uniqueId("clip");
    this.clip = svg("rect");
    const definition = svg("clipPath", { id: clip });
    definition.append(this.clip);
    this.axes = { x: svg("g"), y: svg("g") };
    this.layer = svg("g", { class: "steepest-layer" });
    this.svg = svg("svg", { role: "img", "aria-label": name(header), "aria-describedby": caption });
    this.marks = header.marks.map((mark, i) => {
      const identity = { "data-panel": number, "data-mark": i };
      return { mark, view: new KINDS[mark.kind](mark, identity, `url(#${clip})`, header), key: null };
    });
    this.layer.append(...this.marks.map(({ view }) => view.element));
    this.svg.append(definition, this.axes.y, this.axes.x, this.layer);
    this.readout = new Readout(this);
    this.element = html("div", { class: "steepest-panel" });
    if (header.title) this.element.append(html("div", { class: "steepest-panel-title" }, header.title));
    this.element.append(this.svg);
    this.width = 0;
  }

  // Height that the frame should have for a given width of the panel.
  idealHeight(width, stacked) {
    const plot = width - this.left(200) - RIGHT;
    if (this.header.equal) {
      const [x, y] = [this.header.x.frame, this.header.y.frame];
      return Math.min((plot * (y[1] - y[0])) / (x[1] - x[0]), Math.max(1.1 * width, 200));
    }
    const categories = this.header.y.categories?.length ?? 0;
    return Math.max((stacked ? 0.6 : 0.72) * plot, 150, 26 * categories);
  }

  left(height) {
    return Math.ceil(Math.max(30, labelWidth(this.header.y, tickCount(false, height)) + 14));
  }

  layOut(width, height) {
    if (width === this.width && height === this.height) return;
    this.width = width;
    this.height = height;
    const box = { left: this.left(height), top: TOP, right: width - RIGHT, bottom: TOP + height };
    const { x, y } = this.header;
    if (this.header.equal) {
      const fitting = (height * (x.frame[1] - x.frame[0])) / (y.frame[1] - y.frame[0]);
      box.right = Math.min(box.right, box.left + fitting);
    }
    set(this.svg, { viewBox: `0 0 ${width} ${TOP + height + BOTTOM}`, width, height: TOP + height + BOTTOM });
    // The frame has room for a stroke that runs along its edge.
    set(this.clip, { x: box.left - 1, y: box.top - 1, width: box.right - box.left + 2, height: box.bottom - box.top + 2 });
    const rangeX = [box.left, box.right];
    // Categories read from top to bottom, as words do.
    const rangeY = y.scale === "category" ? [box.top, box.bottom] : [box.bottom, box.top];
    drawAxis(this.axes.x, "x", x, rangeX, box);
    drawAxis(this.axes.y, "y", y, rangeY, box);
    this.frame = new Frame(this.header, rangeX, rangeY, box);
    for (const entry of this.marks) entry.key = null;
  }

  draw(data, state, positions) {
    const marks = data.header.panels[this.number].marks;
    this.marks.forEach((entry, i) => {
      const mark = marks[i];
      const revealed = mark.reveal ? state[mark.reveal] : Infinity;
      const number = (field) => data.rowNumber(mark, field, positions);
      const words = mark.strings ? data.strings(mark, positions) : [];
      const key = JSON.stringify([data.version, Object.keys(mark.fields).map(number), words, mark.reveal ? revealed : ""]);
      if (key === entry.key) return;
      entry.key = key;
      const row = (field) => (field in mark.fields ? data.row(mark, field, positions) : null);
      entry.view.draw(this.frame, { row, revealed, mark, words, key: `${data.version}:${number(Object.keys(mark.fields).at(-1))}` });
    });
    this.readout.hide();
  }
}

class Frame {
  constructor(header, rangeX, rangeY, box) {
    this.box = box;
    this.x = scaleOf(header.x, rangeX);
    this.y = scaleOf(header.y, rangeY);
    this.extentX = header.x.extent;
    this.extentY = header.y.extent;
    this.key = `${box.right}x${box.bottom}`;
  }

  holds(x, y) {
    const { left, right, top, bottom } = this.box;
    return x >= left - 0.5 && x <= right + 0.5 && y >= top - 0.5 && y <= bottom + 0.5;
  }

  // Share of the segment at which it leaves the frame, null if it does not.
  leaves(x0, y0, x1, y1) {
    const { left, right, top, bottom } = this.box;
    let [enter, leave] = [0, 1];
    for (const [start, change, low, high] of [[x0, x1 - x0, left, right], [y0, y1 - y0, top, bottom]]) {
      if (change === 0) {
        if (start < low - 0.5 || start > high + 0.5) return null;
        continue;
      }
      const shares = [(low - start) / change, (high - start) / change].sort((a, b) => a - b);
      enter = Math.max(enter, shares[0]);
      leave = Math.min(leave, shares[1]);
    }
    return enter <= leave && leave < 1 ? leave : null;
  }
}

const name = ({ title, x, y }) => `${title ? `${title}: ` : ""}${y.label} against ${x.label}`;
