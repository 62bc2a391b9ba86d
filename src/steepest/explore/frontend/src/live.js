// The same figure as an anywidget: every change of a control asks the kernel, which answers with one state's numbers.
import { Dataset } from "./dataset.js";
import { FigureView } from "./figure.js";

function render({ model, el }) {
  const controls = model.get("_controls");
  const names = controls.map((header) => header.name);
  let asked = false;
  let waiting = null;

  const ask = (state) => {
    // One question at a time: while the kernel computes, only the newest wish is kept.
    if (asked) {
      waiting = state;
      return;
    }
    const changed = names.filter((name) => model.get(name) !== state[name]);
    if (!changed.length) return;
    asked = true;
    for (const name of changed) model.set(name, state[name]);
    model.save_changes();
  };

  const view = new FigureView(controls, { chosen: ask });
  el.append(view.element);
  view.connect();

  const values = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const follow = () => !asked && view.place(values());
  const show = () => {
    const block = model.get("_block");
    const error = model.get("error");
    view.complain(error);
    if (!error && block.byteLength) {
      const bytes = new Uint8Array(block.buffer, block.byteOffset, block.byteLength);
      view.show(new Dataset(bytes), () => Object.fromEntries(names.map((name) => [name, 0])));
    }
  };
  const answered = () => {
    asked = false;
    show();
    const next = waiting;
    waiting = null;
    if (next) ask(next);
  };

  view.place(values());
  show();
  model.on("change:_answers", answered);
  for (const name of names) model.on(`change:${name}`, follow);
  return () => {
    model.off("change:_answers", answered);
    for (const name of names) model.off(`change:${name}`, follow);
    view.disconnect();
  };
}

export default { render };
