// Reading a line's values with the pointer: the point nearest to it, its label and its coordinates.
import { svg, set } from "./dom.js";
import { formatNumber } from "./format.js";

const REACH = 28;

export class Readout {
  constructor(panel) {
    this.panel = panel;
    this.ring = svg("circle", { r: 5.5 });
    this.words = svg("text", {});
    this.element = svg("g", { class: "steepest-readout", "aria-hidden": "true" });
    this.element.append(this.ring, this.words);
    panel.svg.append(this.element);
    panel.svg.addEventListener("pointermove", (event) => this.show(event));
    panel.svg.addEventListener("pointerleave", () => this.hide());
    this.hide();
  }

  hide() {
    this.element.style.display = "none";
  }

  show(event) {
    const { frame, header, marks, svg: surface } = this.panel;
    const bounds = surface.getBoundingClientRect();
    const [px, py] = [event.clientX - bounds.left, event.clientY - bounds.top];
    let best = null;
    for (const { mark, view } of marks) {
      for (const vertex of (mark.kind === "line" && view.vertices) || []) {
        if (!vertex || !frame.holds(vertex[0], vertex[1])) continue;
        const distance = Math.hypot(vertex[0] - px, vertex[1] - py);
        if (distance < (best?.distance ?? REACH)) best = { distance, vertex, mark };
      }
    }
    if (!best) return this.hide();
    const [x, y] = best.vertex;
    const where = `${valueAt(header.x, frame.x, x)}, ${valueAt(header.y, frame.y, y)}`;
    this.words.textContent = best.mark.label ? `${best.mark.label}: ${where}` : where;
    set(this.ring, { cx: x, cy: y });
    const right = x > (frame.box.left + frame.box.right) / 2;
    const above = y - frame.box.top > 24;
    set(this.words, { x: x + (right ? -9 : 9), y: above ? y - 10 : y + 20, "text-anchor": right ? "end" : "start" });
    this.element.style.display = "";
  }
}

// The value of an axis at a px, with the digits that a stored coordinate has.
function valueAt(axis, scale, px) {
  const [low, high] = axis.frame;
  const value = low + ((px - scale(low)) / (scale(high) - scale(low))) * (high - low);
  if (axis.scale === "category") return axis.categories[Math.round(value)];
  if (axis.scale === "log") return formatNumber(10 ** value, 3);
  const step = 10 ** Math.floor(Math.log10((high - low) / 500));
  return formatNumber(Number((Math.round(value / step) * step).toPrecision(12)), 4);
}
