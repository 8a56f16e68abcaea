// In the built page this stands in for anywidget and the kernel. The book's Sphinx extension joins explorer.js and this file
// to one classic script (a page opened from the disk loads no modules), in which `widget` is what explorer.js exports.

/** Holds the state and tells who listens. */
class StaticModel {
  listeners = [];
  constructor(state) { this.state = state; }
  get(name) { return this.state[name]; }
  set(name, value) {
    this.state[name] = value;
    for (const [event, listener] of this.listeners) if (event === `change:${name}`) listener();
  }
  on(...listener) { this.listeners.push(listener); }
  save_changes() {}
}

for (const el of document.querySelectorAll("[data-theta-explorer]")) {
  el.replaceChildren();
  widget.render({ model: new StaticModel(JSON.parse(el.dataset.thetaExplorer)), el });
}
