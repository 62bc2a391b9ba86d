// The custom element of the built book: numbers and picture in the page, no kernel, no network.
import { Dataset, gunzip } from "./dataset.js";
import { FigureView } from "./figure.js";

class SteepestFigure extends HTMLElement {
  connectedCallback() {
    this.ready ??= this.start();
    this.ready.then(() => this.isConnected && this.view.connect());
  }

  disconnectedCallback() {
    this.view?.disconnect();
  }

  async start() {
    const data = new Dataset(await gunzip(this.querySelector(".steepest-data").textContent));
    const { controls } = data.header;
    const positions = (state) => Object.fromEntries(controls.map(({ name, values }) => [name, values.indexOf(state[name])]));
    this.view = new FigureView(controls);
    this.append(this.view.element);
    this.classList.add("steepest-alive");
    this.view.show(data, positions);
  }

  // The value of each control.
  get state() {
    return this.view.state;
  }

  // Moves controls; resolves once the figure is drawn.
  async setState(values) {
    await this.ready;
    this.view.place(values);
    this.view.draw();
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
}

if (!customElements.get("steepest-figure")) customElements.define("steepest-figure", SteepestFigure);
