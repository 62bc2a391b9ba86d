// The same figure as an anywidget: every change of a control asks the kernel, which answers with one state's numbers.
import { Dataset } from "./dataset.js";
import { FigureView } from "./figure.js";

function render({ model, el }) {
  const controls = model.get("_controls");
  const names = controls.map((header) => header.name);
  const values = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const known = values();
  let asked = false;
  let waiting = false;

  const ask = () => {
    // One question at a time: while the kernel computes, only the newest wish is kept.
    if (asked) {
      waiting = true;
      return;
    }
    const state = view.state;
    const changed = names.filter((name) => known[name] !== state[name]);
    if (!changed.length) return;
    asked = true;
    for (const name of changed) {
      known[name] = state[name];
      model.set(name, state[name]);
    }
    model.save_changes();
  };

  const view = new FigureView(controls, { chosen: ask });
  el.append(view.element);
  view.connect();

  // The kernel may move a control while the reader moves another; what the reader has moved since stays.
  const follow = () => {
    for (const name of names) {
      const value = model.get(name);
      if (value === known[name]) continue;
      const untouched = view.state[name] === known[name];
      known[name] = value;
      if (untouched) view.place({ [name]: value });
    }
  };
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
    if (waiting) {
      waiting = false;
      ask();
    }
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
