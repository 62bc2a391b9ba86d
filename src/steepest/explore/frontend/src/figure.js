// A figure: controls, panels, legend and caption, and the state that ties them together.
import { makeControl } from "./controls.js";
import { html, uniqueId } from "./dom.js";
import { makeLegends } from "./legend.js";
import { Panel } from "./panel.js";

const SETTLED_MS = 600;
const GAP_PX = 28;

export class FigureView {
  // `chosen` is called when the reader changes a control, with the new state.
  constructor(controls, { chosen } = {}) {
    this.chosen = chosen ?? (() => this.draw());
    this.controls = controls.map((header) => makeControl(header, () => this.choose()));
    this.resetButton = html("button", { type: "button", class: "steepest-reset" }, "Reset");
    this.resetButton.addEventListener("click", () => this.reset());
    this.group = html("div", { class: "steepest-controls", role: "group", "aria-label": "Controls of the figure" });
    this.group.append(...this.controls.map((control) => control.element));
    this.panelRow = html("div", { class: "steepest-panels" });
    this.legend = html("div", { class: "steepest-header" });
    this.caption = html("p", { class: "steepest-caption", id: uniqueId("caption") });
    this.announcement = html("p", { class: "steepest-announcement", role: "status" });
    this.error = html("p", { class: "steepest-error", role: "alert", hidden: "" });
    this.element = html("div", { class: "steepest-root" }, this.group, this.error, this.legend, this.panelRow, this.caption, this.announcement);
    // JupyterLab takes arrow keys for itself where they are not stopped.
    this.element.addEventListener("keydown", (event) => event.stopPropagation());
    this.observer = new ResizeObserver(() => this.layOut() && this.draw());
    this.versions = 0;
  }

  get state() {
    return Object.fromEntries(this.controls.map((control) => [control.header.name, control.value]));
  }

  // Move controls without telling anyone.
  place(values) {
    const byName = new Map(this.controls.map((control) => [control.header.name, control]));
    for (const [name, value] of Object.entries(values)) {
      const control = byName.get(name);
      if (!control) throw new RangeError(`the figure has no control ${name}: ${[...byName.keys()].join(", ")}`);
      control.stop();
      control.set(value);
    }
  }

  // What is drawn from now on: the whole grid in a page, one state in a live kernel.
  show(data, positions) {
    data.version = ++this.versions;
    this.data = data;
    this.positions = positions;
    const skeleton = JSON.stringify(data.header.panels.map(skeletonOf));
    if (skeleton !== this.skeleton) {
      this.skeleton = skeleton;
      this.rebuild();
    }
    if (this.layOut() || this.width) this.draw();
  }

  rebuild() {
    const headers = this.data.header.panels;
    for (const { marks } of headers) {
      const bars = marks.filter((mark) => mark.kind === "bars");
      for (const mark of bars) mark.hatched = bars.length > 1;
    }
    this.panels = headers.map((header, i) => new Panel(header, i, this.caption.id));
    const [shared, own] = makeLegends(headers);
    this.legend.replaceChildren(...(shared ? [shared] : []), ...(this.controls.length ? [this.resetButton] : []));
    this.panels.forEach((panel, i) => own[i] && panel.element.append(own[i]));
    this.panelRow.replaceChildren(...this.panels.map((panel) => panel.element));
    this.panelRow.dataset.count = this.panels.length;
    this.width = 0;
  }

  // Fit the panels to the width there is; whether anything changed.
  layOut() {
    const width = Math.floor(this.panelRow.clientWidth);
    if (!this.panels || !width || width === this.width) return false;
    this.width = width;
    const columns = columnsFor(this.panels.length, width);
    const each = Math.floor((width - (columns - 1) * GAP_PX) / columns);
    this.panelRow.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    for (let start = 0; start < this.panels.length; start += columns) {
      const row = this.panels.slice(start, start + columns);
      const equal = row.filter((panel) => panel.header.equal);
      const height = Math.max(...(equal.length ? equal : row).map((panel) => panel.idealHeight(each, columns === 1)));
      for (const panel of row) panel.layOut(each, Math.round(height));
    }
    return true;
  }

  draw() {
    const state = this.state;
    const positions = this.positions(state);
    for (const panel of this.panels) panel.draw(this.data, state, positions);
    this.caption.textContent = this.data.alt(positions);
  }

  choose() {
    this.chosen(this.state);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => (this.announcement.textContent = this.caption.textContent), SETTLED_MS);
  }

  reset() {
    this.place(Object.fromEntries(this.controls.map(({ header }) => [header.name, header.default])));
    this.choose();
  }

  complain(message) {
    this.error.hidden = !message;
    this.error.textContent = message;
    this.panelRow.classList.toggle("steepest-stale", Boolean(message));
  }

  connect() {
    this.observer.observe(this.element);
  }

  disconnect() {
    this.observer.disconnect();
    for (const control of this.controls) control.stop();
  }
}

function columnsFor(count, width) {
  const fitting = Math.max(1, Math.floor((width + GAP_PX) / (270 + GAP_PX)));
  if (count <= fitting) return count;
  // Four panels where three fit look better two by two.
  return Math.ceil(count / Math.ceil(count / fitting));
}

// All of a panel's header that its elements were made from: not the tables that say where its numbers are.
function skeletonOf({ marks, ...panel }) {
  return { ...panel, marks: marks.map(({ fields, strings, knots, ...mark }) => ({ ...mark, fields: Object.keys(fields), strings: strings?.[0] })) };
}
