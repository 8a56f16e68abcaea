// For the built page: joined with explorer.js to one classic script, as a page opened from the disk loads no modules.

/** Stands in for the kernel: the state, and who listens. */
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
