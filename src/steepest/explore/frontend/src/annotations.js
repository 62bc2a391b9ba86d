// Bars, rules and words.
import { format } from "d3-format";
import { dequantise } from "./dataset.js";
import { set, svg, uniqueId } from "./dom.js";
import { formatNumber } from "./format.js";
import { HATCHES } from "./palette.js";

const CHARACTER = 6.6;
const compact = format(".2~s");

export class Bars {
  constructor(mark, identity, clip, panel) {
    this.mark = mark;
    this.panel = panel;
    const groups = panel.marks.filter((other) => other.kind === "bars");
    this.group = groups.indexOf(mark);
    this.thickness = 0.76 / groups.length;
    this.offset = (this.group - (groups.length - 1) / 2) * this.thickness;
    this.element = svg("g", { ...identity, class: `steepest-mark steepest-bars steepest-series-${mark.series}` });
    this.rects = mark.names.map((name) => svg("rect", { "data-name": name, class: "steepest-bar" }));
    const hatch = uniqueId("hatch");
    this.covers = mark.names.map(() => svg("rect", { fill: `url(#${hatch})` }));
    this.words = mark.names.map(() => svg("text", { class: "steepest-bar-value" }));
    this.element.append(hatchOf(mark, hatch), ...this.rects, ...this.covers, ...this.words);
  }

  draw(frame, { row }) {
    const values = row("values");
    const upright = this.panel.x.scale === "category";
    const [categories, axis] = upright ? [this.panel.x, this.panel.y] : [this.panel.y, this.panel.x];
    const [across, along] = upright ? [frame.x, frame.y] : [frame.y, frame.x];
    const [low, high] = axis.frame;
    const base = along(axis.scale === "log" ? low : Math.min(Math.max(0, low), high));
    const unit = Math.abs(across(1) - across(0));
    const slot = this.thickness * unit - 2;
    const wide = 0.92 * this.thickness * unit;
    this.mark.names.forEach((name, i) => {
      const value = dequantise(values[i], ...axis.extent);
      const end = along(Math.min(Math.max(value, low), high));
      const middle = across(categories.categories.indexOf(name)) + this.offset * unit;
      const [from, to] = [Math.min(base, end), Math.max(base, end)];
      const sides = upright ? { x: middle - wide / 2, width: wide, y: from, height: to - from } : { y: middle - wide / 2, height: wide, x: from, width: to - from };
      set(this.covers[i], sides);
      set(this.rects[i], { ...sides, "data-value": axis.scale === "log" ? 10 ** value : value });
      const beyond = value > high || value < low;
      const number = shown(axis, Math.min(Math.max(value, low), high));
      const sign = beyond ? (value > high ? "> " : "< ") : "";
      const whole = sign + formatNumber(number, 3);
      const label = upright && whole.length * CHARACTER > slot ? sign + compact(number) : whole;
      this.words[i].textContent = label;
      const backwards = end < base;
      const room = upright ? label.length * CHARACTER <= slot : wide > 9;
      this.words[i].style.display = room ? "" : "none";
      set(this.words[i], upright
        ? { x: middle, y: backwards ? end - 4 : end + 12, "text-anchor": "middle" }
        : frame.box.right - end > 44 && !backwards
          ? { x: end + 5, y: middle, dy: "0.35em", "text-anchor": "start", class: "steepest-bar-value" }
          : { x: end - 5, y: middle, dy: "0.35em", "text-anchor": "end", class: backwards ? "steepest-bar-value" : "steepest-bar-value steepest-within" });
    });
  }
}

// Lines in the colour of the paper over a bar, so that series differ without their colours too.
export function hatchOf(mark, id) {
  const pattern = svg("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" });
  pattern.append(svg("path", { class: "steepest-hatch", d: mark.hatched ? HATCHES[mark.series] : "" }));
  return pattern;
}

// Values were rounded to 16 bits over the axis: more digits than that would be invented.
function shown(axis, value) {
  if (axis.scale === "log") return 10 ** value;
  const step = 10 ** Math.floor(Math.log10((axis.extent[1] - axis.extent[0]) / 32767));
  return Number((Math.round(value / step) * step).toPrecision(12));
}

export class Rule {
  constructor(mark, identity) {
    this.mark = mark;
    this.element = svg("g", { class: "steepest-mark steepest-rule" });
    this.path = svg("path", identity);
    this.words = svg("text", {});
    this.words.textContent = mark.label ?? "";
    this.element.append(this.path, this.words);
  }

  draw(frame, { row }) {
    const { left, right, top, bottom } = frame.box;
    const upright = "x" in this.mark.fields;
    const at = upright ? frame.x(dequantise(row("x")[0], ...frame.extentX)) : frame.y(dequantise(row("y")[0], ...frame.extentY));
    const seen = upright ? at >= left - 0.5 && at <= right + 0.5 : at >= top - 0.5 && at <= bottom + 0.5;
    this.element.style.display = seen ? "" : "none";
    this.path.setAttribute("d", upright ? `M${at.toFixed(2)},${top}V${bottom}` : `M${left},${at.toFixed(2)}H${right}`);
    const crowded = upright && right - at < 7 * (this.mark.label ?? "").length;
    set(this.words, upright
      ? { x: at + (crowded ? -5 : 5), y: top + 10, "text-anchor": crowded ? "end" : "start" }
      : { x: right - 3, y: at - top < 16 ? at + 13 : at - 5, "text-anchor": "end" });
  }
}

export class Words {
  constructor(mark, identity) {
    this.element = svg("g", { ...identity, class: "steepest-mark steepest-text" });
    this.words = Array.from({ length: mark.strings[0] }, () => svg("text", { dy: "0.32em", "text-anchor": mark.anchor }));
    this.element.append(...this.words);
  }

  draw(frame, { row, words }) {
    const x = row("x");
    const y = row("y");
    words.forEach((string, i) => {
      const at = [frame.x(dequantise(x[i], ...frame.extentX)), frame.y(dequantise(y[i], ...frame.extentY))];
      this.words[i].textContent = string;
      this.words[i].style.display = frame.holds(...at) ? "" : "none";
      set(this.words[i], { x: at[0].toFixed(2), y: at[1].toFixed(2) });
    });
  }
}
