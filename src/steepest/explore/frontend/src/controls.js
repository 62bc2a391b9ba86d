// Native inputs for the controls of a figure; each shows its value and unit and reports what the reader chose.
import { html, uniqueId } from "./dom.js";
import { formatNumber } from "./format.js";

const RADIOS = 4;
const SHORT = 34;
const RUN_MS = 5000;
const STEP_MS = [50, 400];
const CALM_STEP_MS = 600;

export function makeControl(header, changed) {
  if (header.kind === "switch") return new Switch(header, changed);
  if (header.kind === "choice") return header.values.length <= RADIOS ? new Radios(header, changed) : new Select(header, changed);
  return new Slider(header, changed);
}

class Slider {
  constructor(header, changed) {
    this.header = header;
    const { values, label, play, live, name } = header;
    const id = uniqueId("slider");
    // Between stops only in a live kernel, and never where the stops are all the whole numbers there are.
    const dense = header.integer && values.at(-1) - values[0] === values.length - 1;
    this.fine = live && !dense;
    this.digits = digitsFor(values);
    this.input = html("input", { type: "range", id, min: 0, max: values.length - 1, step: this.fine ? 0.05 : 1, "data-control": name });
    this.output = html("output", { for: id, "aria-live": "off" });
    this.element = html("div", { class: "steepest-control steepest-slider" }, html("label", { for: id }, label), this.output, this.input);
    this.input.addEventListener("input", () => {
      this.stop();
      this.value = this.valueAt(Number(this.input.value));
      this.show();
      changed();
    });
    if (play) this.addPlay(changed);
    this.set(header.default);
  }

  valueAt(position) {
    const { values, integer, log } = this.header;
    const low = Math.min(Math.floor(position), values.length - 2);
    if (Number.isInteger(position)) return values[position];
    const [start, end, share] = [values[low], values[low + 1], position - low];
    const value = log ? start * (end / start) ** share : start + share * (end - start);
    return integer ? Math.round(value) : Number(value.toPrecision(this.digits + 2));
  }

  positionOf(value) {
    const { values, log, live } = this.header;
    const exact = values.indexOf(value);
    if (exact >= 0) return exact;
    if (!live) return -1;
    const next = values.findIndex((stop) => stop > value);
    if (next <= 0) return -1;
    const [start, end] = [values[next - 1], values[next]];
    return next - 1 + (log ? Math.log(value / start) / Math.log(end / start) : (value - start) / (end - start));
  }

  set(value) {
    const position = this.positionOf(value);
    if (position < 0) throw unknown(this.header, value);
    this.value = value;
    this.input.value = position;
    this.show();
  }

  show() {
    const text = formatNumber(this.value, this.digits) + withSpace(this.header.unit);
    this.output.textContent = text;
    this.input.setAttribute("aria-valuetext", text);
    const last = this.header.values.length - 1;
    this.input.style.setProperty("--steepest-filled", `${last ? (100 * this.input.value) / last : 0}%`);
  }

  addPlay(changed) {
    this.changed = changed;
    this.words = html("span", {}, "Play");
    this.button = html("button", { type: "button", class: "steepest-play", "aria-label": `Play ${this.header.label}` }, this.words);
    this.button.addEventListener("click", () => (this.timer ? this.stop() : this.start()));
    this.element.append(this.button);
    this.element.classList.add("steepest-plays");
  }

  start() {
    const last = this.header.values.length - 1;
    if (Number(this.input.value) >= last) this.step(0);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const pause = calm ? CALM_STEP_MS : Math.min(Math.max(RUN_MS / this.header.values.length, STEP_MS[0]), STEP_MS[1]);
    this.timer = setInterval(() => {
      const next = Math.floor(Number(this.input.value)) + 1;
      if (next <= last) this.step(next);
      if (next >= last || !this.element.isConnected) this.stop();
    }, pause);
    this.showPlaying();
  }

  step(position) {
    this.set(this.header.values[position]);
    this.changed();
  }

  stop() {
    if (!this.timer) return;
    clearInterval(this.timer);
    this.timer = null;
    this.showPlaying();
  }

  showPlaying() {
    this.words.textContent = this.timer ? "Pause" : "Play";
    this.button.setAttribute("aria-label", `${this.words.textContent} ${this.header.label}`);
    this.button.classList.toggle("steepest-playing", Boolean(this.timer));
  }
}

class Switch {
  constructor(header, changed) {
    this.header = header;
    const id = uniqueId("switch");
    this.input = html("input", { type: "checkbox", id, "data-control": header.name });
    this.output = html("output", { for: id, "aria-live": "off" });
    this.element = html("div", { class: "steepest-control steepest-switch" }, this.input, html("label", { for: id }, header.label), this.output);
    this.input.addEventListener("change", () => {
      this.show();
      changed();
    });
    this.set(header.default);
  }

  get value() {
    return this.input.checked;
  }

  set(value) {
    if (typeof value !== "boolean") throw unknown(this.header, value);
    this.input.checked = value;
    this.show();
  }

  show() {
    this.output.textContent = this.value ? "on" : "off";
  }

  stop() {}
}

class Radios {
  constructor(header, changed) {
    this.header = header;
    const group = uniqueId("choice");
    this.inputs = header.values.map((value) => html("input", { type: "radio", name: group, value, "data-control": header.name }));
    const options = this.inputs.map((input, i) => html("label", {}, input, html("span", {}, header.values[i])));
    this.element = html("fieldset", { class: `steepest-control steepest-radios${header.values.join("").length > SHORT ? " steepest-wide" : ""}` }, html("legend", {}, header.label), html("div", {}, ...options));
    this.element.addEventListener("change", changed);
    this.set(header.default);
  }

  get value() {
    return this.inputs.find((input) => input.checked).value;
  }

  set(value) {
    const input = this.inputs.find((option) => option.value === value);
    if (!input) throw unknown(this.header, value);
    input.checked = true;
  }

  stop() {}
}

class Select {
  constructor(header, changed) {
    this.header = header;
    const id = uniqueId("choice");
    this.input = html("select", { id, "data-control": header.name }, ...header.values.map((value) => html("option", { value }, value)));
    this.element = html("div", { class: "steepest-control steepest-select" }, html("label", { for: id }, header.label), this.input);
    this.input.addEventListener("change", changed);
    this.set(header.default);
  }

  get value() {
    return this.input.value;
  }

  set(value) {
    if (!this.header.values.includes(value)) throw unknown(this.header, value);
    this.input.value = value;
  }

  stop() {}
}

// Fewest significant digits, four or more, that move no stop noticeably towards its neighbours: 0.99999 must not read 1.
function digitsFor(values) {
  const gap = Math.min(...values.slice(1).map((value, i) => value - values[i]));
  for (let digits = 4; digits < 15; digits++) {
    if (values.every((value) => Math.abs(Number(value.toPrecision(digits)) - value) < gap / 20)) return digits;
  }
  return 15;
}

// A degree sign stands at its number; other units keep a space.
const withSpace = (unit) => (unit && unit !== "°" ? ` ${unit}` : unit);

function unknown(header, value) {
  return new RangeError(`${JSON.stringify(value)} is not a value of ${header.name}: ${JSON.stringify(header.values)}`);
}
