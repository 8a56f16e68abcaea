// The θ explorer. In a notebook anywidget calls `render` with a model that lives in the kernel; in the built page
// static_page.js does. Formulas, names and coordinates are those of stn_helpers.transforms and stn_helpers.sampling.
// Points lie flat in memory, x₀, y₀, x₁, y₁, …; images row by row.

// ---- Grid generator ----

/** Unless its denominator is above this, a target point lies behind the horizon and reads outside the image. */
const HORIZON = 1e-3;

const pixelCenters = (n) => Array.from({ length: n }, (_, i) => (2 * i + 1) / n - 1);

const pairs = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);

const cache = new Map();
const cached = (key, make) => cache.get(key) ?? cache.set(key, make()).get(key);

/** The pixel centres of an output; one array per size, for which a spline's basis can be kept. */
const targetPoints = ([height, width]) => cached(`${height} ${width}`, () =>
  Float64Array.from(pixelCenters(height).flatMap((y) => pixelCenters(width).flatMap((x) => [x, y]))));

/** Points through a 3×3 matrix (9 numbers, row by row): (X/w, Y/w). */
function throughMatrix(m, points) {
  const source = new Float64Array(points.length);
  for (let i = 0; i < points.length; i += 2) {
    const x = points[i], y = points[i + 1], w = m[6] * x + m[7] * y + m[8];
    source[i] = w > HORIZON ? (m[0] * x + m[1] * y + m[2]) / w : 1 / HORIZON;
    source[i + 1] = w > HORIZON ? (m[3] * x + m[4] * y + m[5]) / w : 1 / HORIZON;
  }
  return source;
}

/** ∂L/∂m from `pulls`, the ∂L/∂(x, y) of the source points. */
function matrixGradient(m, points, source, pulls) {
  const d = new Array(8).fill(0);
  for (let i = 0; i < points.length; i += 2) {
    const x = points[i], y = points[i + 1], w = m[6] * x + m[7] * y + m[8];
    if (!(w > HORIZON)) continue;
    const px = pulls[i] / w, py = pulls[i + 1] / w, pw = -(px * source[i] + py * source[i + 1]);
    d[0] += px * x; d[1] += px * y; d[2] += px;
    d[3] += py * x; d[4] += py * y; d[5] += py;
    d[6] += pw * x; d[7] += pw * y;
  }
  return d;
}

/** Solves A X = B by Gaussian elimination; null where A is singular. */
function solve(A, B) {
  const n = A.length, rows = A.map((row, i) => [...row, ...B[i]]);
  for (let c = 0; c < n; c++) {
    let pivot = c;
    for (let r = c; r < n; r++) if (Math.abs(rows[r][c]) > Math.abs(rows[pivot][c])) pivot = r;
    if (Math.abs(rows[pivot][c]) < 1e-9) return null;
    [rows[c], rows[pivot]] = [rows[pivot], rows[c]];
    for (let r = 0; r < n; r++) {
      const factor = rows[r][c] / rows[c][c];
      if (r !== c && factor) for (let k = c; k < rows[r].length; k++) rows[r][k] -= factor * rows[c][k];
    }
  }
  return rows.map((row, i) => row.slice(n).map((value) => value / row[i]));
}

const LINE = [-1, -1 / 3, 1 / 3, 1], CONTROL = LINE.flatMap((y) => LINE.flatMap((x) => [x, y]));

/** U(r) = r² log r to every control point, then 1, x, y. */
const splineRow = (x, y) => [...pairs(CONTROL).map(([u, v]) => {
  const r2 = (x - u) ** 2 + (y - v) ** 2;
  return r2 && 0.5 * r2 * Math.log(r2);
}), 1, x, y];

/** Coefficients of the spline from values at the control points: [U, P; Pᵀ, 0]⁻¹ without its last three columns. */
const SPLINE = (() => {
  const rows = pairs(CONTROL).map((point) => splineRow(...point));
  const below = [16, 17, 18].map((c) => [...rows.map((row) => row[c]), 0, 0, 0]);
  return solve([...rows, ...below], splineRow(0, 0).map((_, i) => rows.map((_, k) => +(i === k))));
})();

/** The matrix that takes control points to source points; kept for every array of points. */
const splineBasis = (points) => cached(points, () => Float64Array.from(pairs(points).flatMap((point) => {
  const row = splineRow(...point);
  return SPLINE[0].map((_, k) => row.reduce((sum, value, j) => sum + value * SPLINE[j][k], 0));
})));

const CORNERS = [-1, -1, 1, -1, 1, 1, -1, 1];

// ---- Families: θ as matrix or spline, in words, under the hand ----

const ENTRIES = [11, 12, 13, 21, 22, 23, 31, 32].map((k) => `θ_${k}`);

/** `chain` takes ∂L/∂matrix back to ∂L/∂θ; `drag` finds the θ that takes a corner, or the centre, to (x, y). */
const matrixFamily = (family) => ({
  ...family,
  handles: [...CORNERS, 0, 0],
  points: (theta, points) => throughMatrix(family.matrix(theta), points),
  gradient: (theta, points, source, pulls) =>
    family.chain(matrixGradient(family.matrix(theta), points, source, pulls)),
});

export const FAMILIES = {
  affine: matrixFamily({
    identity: [1, 0, 0, 0, 1, 0],
    names: ENTRIES.slice(0, 6),
    parts: {  // R(φ) · [[1, k], [0, 1]] · diag(scales); `aspect` = width/height makes them act on pixels
      names: ["rotation", "scale x", "scale y", "shear", "shift x", "shift y"],
      toTheta([degrees, sx, sy, k, tx, ty], aspect) {
        const angle = (degrees * Math.PI) / 180, cos = Math.cos(angle), sin = Math.sin(angle);
        return [cos * sx, ((cos * k - sin) * sy) / aspect, tx, sin * sx * aspect, (sin * k + cos) * sy, ty];
      },
      fromTheta([a, b, tx, c, d, ty], aspect) {
        const det = a * d - b * c, [p, q] = [b * aspect, c / aspect], sx = Math.hypot(a, q);
        return [(Math.atan2(q, a) * 180) / Math.PI, sx, sx && det / sx, det && (a * p + q * d) / det, tx, ty];
      },
    },
    matrix: (theta) => [...theta, 0, 0, 1],
    chain: (d) => d.slice(0, 6),
    /** The corner opposite moves too; the other diagonal and the centre stay. */
    drag([a, b, tx, c, d, ty], [cx, cy], [x, y]) {
      if (!cx) return [a, b, x, c, d, y];
      const [qx, qy] = [x - tx, y - ty], [rx, ry] = [a * cx - b * cy, c * cx - d * cy];
      return [(qx + rx) / (2 * cx), (qx - rx) / (2 * cy), tx, (qy + ry) / (2 * cx), (qy - ry) / (2 * cy), ty];
    },
  }),
  attention: matrixFamily({
    identity: [1, 0, 0],
    names: ["s", "t_x", "t_y"],
    matrix: ([s, tx, ty]) => [s, 0, tx, 0, s, ty, 0, 0, 1],
    chain: (d) => [d[0] + d[4], d[2], d[5]],
    drag: ([s, tx, ty], [cx, cy], [x, y]) => (cx ? [(cx * (x - tx) + cy * (y - ty)) / 2, tx, ty] : [s, x, y]),
  }),
  similarity: matrixFamily({
    identity: [1, 0, 0, 0],
    names: ["a", "b", "t_x", "t_y"],
    matrix: ([a, b, tx, ty]) => [a, -b, tx, b, a, ty, 0, 0, 1],
    chain: (d) => [d[0] + d[4], d[3] - d[1], d[2], d[5]],
    drag([a, b, tx, ty], [cx, cy], [x, y]) {
      const [qx, qy] = [x - tx, y - ty];
      return cx ? [(cx * qx + cy * qy) / 2, (cx * qy - cy * qx) / 2, tx, ty] : [a, b, x, y];
    },
  }),
  projective: matrixFamily({
    identity: [1, 0, 0, 0, 1, 0, 0, 0],
    names: ENTRIES,
    matrix: (theta) => [...theta, 1],
    chain: (d) => d,
    /** A corner moves alone: the homography through the four. The centre takes everything along. */
    drag(theta, [cx], [x, y], i) {
      const [a, b, tx, c, d, ty, g, h] = theta, [dx, dy] = [x - tx, y - ty];
      if (!cx) return [a + dx * g, b + dx * h, x, c + dy * g, d + dy * h, y, g, h];
      const corners = pairs(this.points(theta, CORNERS)).with(i, [x, y]);
      const rows = pairs(CORNERS).flatMap(([p, q], k) => {
        const [u, v] = corners[k];
        return [[p, q, 1, 0, 0, 0, -u * p, -u * q], [0, 0, 0, p, q, 1, -v * p, -v * q]];
      });
      const found = solve(rows, corners.flat().map((value) => [value]))?.flat();
      return found && Math.abs(found[6]) + Math.abs(found[7]) < 0.95 ? found : null;  // else folded over the horizon
    },
  }),
  tps: {
    identity: CONTROL,
    names: CONTROL.map((_, k) => `${"xy"[k % 2]} of point ${(k >> 1) + 1}`),
    handles: CONTROL,
    points(theta, points) {
      const basis = splineBasis(points), source = new Float64Array(points.length);
      for (let i = 0, b = 0; i < points.length; i += 2) {
        let x = 0, y = 0;
        for (let k = 0; k < 32; k += 2, b++) {
          x += basis[b] * theta[k];
          y += basis[b] * theta[k + 1];
        }
        source[i] = x;
        source[i + 1] = y;
      }
      return source;
    },
    gradient(theta, points, source, pulls) {
      const basis = splineBasis(points), d = new Array(32).fill(0);
      for (let i = 0, b = 0; i < points.length; i += 2)
        for (let k = 0; k < 32; k += 2, b++) {
          d[k] += basis[b] * pulls[i];
          d[k + 1] += basis[b] * pulls[i + 1];
        }
      return d;
    },
    drag: (theta, target, [x, y], i) => theta.with(2 * i, x).with(2 * i + 1, y),
  },
};

// ---- Sampler ----

/** Half to even, as torch rounds. */
function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** [-1, 1] → pixel units, in which pixel i has its centre at i. */
function toPixels(coordinate, n, padding) {
  const pixel = ((coordinate + 1) * n - 1) / 2;
  return padding === "border" ? clamp(pixel, 0, n - 1) : pixel;
}

/** Reads `image` (of `size` [H, W]) at the points of `grid`. Into `slopes`, where given, go ∂V/∂x and ∂V/∂y: the paper's
 *  equation 7; at a pixel centre the derivative to the right, as torch takes it. */
export function sample(image, [height, width], grid, mode, padding, slopes) {
  const output = new Float64Array(grid.length / 2);
  const at = (row, column) =>
    (row >= 0 && row < height && column >= 0 && column < width ? image[row * width + column] : 0);
  const clamped = (pixel, n) => padding === "border" && (pixel <= 0 || pixel >= n - 1);
  for (let i = 0; i < output.length; i++) {
    const x = toPixels(grid[2 * i], width, padding), y = toPixels(grid[2 * i + 1], height, padding);
    if (mode === "nearest") { output[i] = at(roundHalfEven(y), roundHalfEven(x)); continue; }
    const left = Math.floor(x), top = Math.floor(y), wx = x - left, wy = y - top;
    const a = at(top, left), b = at(top, left + 1), c = at(top + 1, left), d = at(top + 1, left + 1);
    output[i] = (1 - wy) * ((1 - wx) * a + wx * b) + wy * ((1 - wx) * c + wx * d);
    if (!slopes) continue;
    slopes[2 * i] = clamped(x, width) ? 0 : (width / 2) * ((1 - wy) * (b - a) + wy * (d - c));
    slopes[2 * i + 1] = clamped(y, height) ? 0 : (height / 2) * ((1 - wx) * (c - a) + wx * (d - b));
  }
  return output;
}

/** Grid generator and sampler: `output`, and the `source` points it read. With a `goal` also the loss
 *  L = mean (V − goal)², its `gradient` ∂L/∂θ, and `pulls`, ∂L/∂(x, y) of every source point. */
export function warp(image, size, family, theta, outSize, mode, padding, goal) {
  const points = targetPoints(outSize), source = family.points(theta, points);
  const pulls = goal && new Float64Array(source.length), output = sample(image, size, source, mode, padding, pulls);
  if (!goal) return { source, output };
  let loss = 0;
  output.forEach((value, i) => {
    const residual = (value - goal[i]) / output.length;
    loss += residual * (value - goal[i]);
    pulls[2 * i] *= 2 * residual;
    pulls[2 * i + 1] *= 2 * residual;
  });
  return { source, output, loss, pulls, gradient: family.gradient(theta, points, source, pulls) };
}

// ---- What one sees and touches ----

const TRAITS = ["family", "theta", "index", "out_size", "padding", "mode", "hidden", "presets"];
const steps = (n) => Array.from({ length: n + 1 }, (_, i) => (2 * i) / n - 1);  // n steps from -1 to 1
const FLAG = [-1, -0.75, -1, -1, -0.75, -1];  // marks the top left, so that mirroring shows
const TRAIL = [0, 0, -1, -1];  // the points whose path is drawn
const DOWN = steps(8).flatMap((x) => steps(16).flatMap((y) => [x, y])), ACROSS = pairs(DOWN).flatMap(([x, y]) => [y, x]);
const BLUE = "#56b4e9", ORANGE = "#f0a020", YELLOW = "#f0e442";  // told apart by the colour-blind
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const signed = (value, digits = 2) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** An element with attributes, listeners and children. */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes ?? {}))
    if (key.startsWith("on")) node[key] = value;
    else node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const button = (label, onclick, attributes) => h("button", { type: "button", onclick, ...attributes }, label);
const picture = (label) => h("canvas", { role: "img", "aria-label": label });
const figure = (area, title, note, ...content) =>
  h("figure", { class: `tx-${area}` }, h("figcaption", null, title, h("span", null, note)), ...content);
const group = (name, label, ...content) => h("div", { class: name, role: "group", "aria-label": label }, ...content);

/** A slider between its name and its value; "θ_11" is θ with 11 as its subscript. */
function slider(name, oninput) {
  const [label, below] = name.split("_"), value = h("output"), act = () => oninput(input.valueAsNumber);
  const input = h("input", { type: "range", min: -2, max: 2, step: 0.01, "aria-label": name.replace("_", " "), oninput: act });
  const row = h("div", { class: "tx-slider" }, h("span", null, label, h("sub", null, below ?? "")), input, value);
  return { input, value, row };
}

function choice(label, options, onchange) {
  const box = h("select", { onchange: () => onchange(box.value) }, ...options.map((option) => h("option", null, option)));
  return { box, node: h("label", null, label, box) };
}

const onArrows = (act) => (event) => {
  if (!ARROWS[event.key]) return;
  act(...ARROWS[event.key], event.shiftKey);
  event.preventDefault();
};

/** Where in `node` a pointer is, from (0, 0) to (1, 1). */
function within(node, { clientX, clientY }) {
  const { left, top, width, height } = node.getBoundingClientRect();
  return [(clientX - left) / width, (clientY - top) / height];
}

function resize(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return canvas.getContext("2d");
}

/** Grey values in [0, 1] into a canvas of their size. */
function paint(canvas, values, [height, width]) {
  const pixels = new ImageData(width, height), words = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = 0xff000000 | (Math.round(values[i] * 255) * 0x010101);
  resize(canvas, width, height).putImageData(pixels, 0, 0);
}

/** Clears the canvas, which shows x in ±reach[0] and y in ±reach[1], and returns what strokes lines on it. A line is lifted
 *  every `length` points and at the horizon. */
function makePen(canvas, reach) {
  const ratio = devicePixelRatio, [x, y] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio) / 2);
  const pen = resize(canvas, 2 * x, 2 * y);
  pen.clearRect(0, 0, 2 * x, 2 * y);
  return (strokeStyle, width, lines, length) => {
    pen.setTransform(x / reach[0], 0, 0, y / reach[1], x, y);
    pen.beginPath();
    for (const points of lines)
      for (let i = 0, down = false; i < points.length; i += 2) {
        const far = Math.abs(points[i]) + Math.abs(points[i + 1]) > 99, go = down && !far && (i / 2) % length !== 0;
        pen[go ? "lineTo" : "moveTo"](points[i], points[i + 1]);
        down = !far;
      }
    pen.resetTransform();
    Object.assign(pen, { strokeStyle, lineWidth: width * ratio, lineJoin: "round", lineCap: "round" }).stroke();
  };
}

/** An arrow from (x, y) by (dx, dy) as one line; nothing where it is too short to see. */
function arrow(x, y, dx, dy) {
  const u = x + dx, v = y + dy, length = Math.hypot(dx, dy), a = (0.06 * dx) / length, b = (0.06 * dy) / length;
  return length > 0.01 ? [x, y, u, v, u - a - b, v - b + a, u, v, u - a + b, v - b - a] : [];
}

class Explorer {
  constructor(model, el) {
    this.model = model;
    const [count, height, width] = model.get("shape"), area = height * width;
    const bytes = Uint8Array.from(atob(model.get("pixels")), (c) => c.charCodeAt(0));
    this.images = Array.from({ length: count }, (_, i) =>
      Float64Array.from(bytes.subarray(i * area, (i + 1) * area), (byte) => byte / 255));
    this.size = [height, width];
    this.aspect = width / height;
    this.viewSize = this.size.map((side) => side + 2 * Math.round(0.2 * side));
    this.reach = [this.viewSize[1] / width, this.viewSize[0] / height];
    this.rate = 0.05;
    this.root = group("theta-explorer", "θ explorer");
    el.append(this.root);
    this.schedule = () => { this.pending ||= requestAnimationFrame(() => this.frame()); };
    TRAITS.forEach((name) => model.on(`change:${name}`, this.schedule));
    this.resized = new ResizeObserver(this.schedule);
    this.resized.observe(this.root);
    this.frame();
  }

  remove() {
    this.resized.disconnect();
    TRAITS.forEach((name) => this.model.off(`change:${name}`, this.schedule));
    cancelAnimationFrame(this.pending);
    cancelAnimationFrame(this.motion);
  }

  get family() { return FAMILIES[this.model.get("family")]; }
  get outSize() { return this.model.get("out_size"); }

  /** Between a new family and its θ: the identity. */
  get theta() {
    const theta = this.model.get("theta"), { identity } = this.family;
    return theta.length === identity.length ? theta : identity;
  }

  set(changes) {
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    this.model.save_changes();
  }

  /** θ by hand: ends whatever moves by itself. */
  move(theta) {
    cancelAnimationFrame(this.motion);
    if (theta?.every(Number.isFinite)) this.set({ theta });
  }

  /** `step` once a frame until it says false; all at once where motion is unwanted. */
  animate(step) {
    cancelAnimationFrame(this.motion);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { while (step(Infinity)); return; }
    const tick = (now) => { if (step(now)) this.motion = requestAnimationFrame(tick); };
    this.motion = requestAnimationFrame(tick);
  }

  /** To another θ in a quarter of a second. */
  glide(theta) {
    const from = this.theta, start = performance.now();
    this.animate((now) => {
      const t = clamp((now - start) / 250, 0, 1);
      this.set({ theta: t < 1 ? theta.map((value, k) => from[k] + t * (value - from[k])) : theta });
      return t < 1;
    });
  }

  /** θ after some steps along the gradient, taken as constant. */
  ahead({ gradient }, count) { return this.theta.map((value, k) => value - count * this.rate * gradient[k]); }

  /** Plain gradient descent, θ ← θ − rate · ∂L/∂θ. */
  descend(count) {
    this.animate(() => {
      this.set({ theta: this.ahead(this.look(), 1) });
      this.frame();
      return --count > 0;
    });
  }

  restart(hidden) {
    this.task = null;
    this.move(this.family.identity);
    this.set({ hidden });
    this.schedule();
  }

  frame() {
    cancelAnimationFrame(this.pending);
    this.pending = 0;
    const get = (name) => this.model.get(name), hidden = get("hidden");
    const built = [get("family"), hidden.length, Object.keys(get("presets").presets)].join();
    const task = `${built} ${get("index")} ${hidden} ${this.outSize}`;
    this.puzzle = hidden.length === this.family.identity.length;
    if (this.built !== built) this.build();
    if (this.task !== task) this.begin();
    Object.assign(this, { built, task });
    const seen = this.look();
    paint(this.output, seen.output, this.outSize);
    this.drawOverlay(seen);  // asks for sizes, so before the page changes
    this.showControls(seen);
    if (this.puzzle) this.showLoss(seen);
  }

  /** The picture to warp: the image; in a puzzle hidden behind θ, the upright one as the goal. */
  begin() {
    const { model, size, outSize, puzzle, family } = this, upright = this.images[model.get("index")];
    const plain = (by, theta, to) => warp(upright, size, by, theta, to).output;
    this.source = puzzle ? plain(family, model.get("hidden"), size) : upright;
    this.goal = puzzle && plain(FAMILIES.attention, [1, 0, 0], outSize);
    this.history = [];
    this.probe = this.padding = null;
    if (puzzle) paint(this.goalCanvas, this.goal, outSize);
    const shape = outSize[1] / outSize[0];
    Object.assign(this.screen.style, { width: `${100 * Math.min(1, shape / this.aspect)}%`, aspectRatio: shape });
  }

  look() {
    const { model, source, size, family, theta, outSize, goal } = this;
    return warp(source, size, family, theta, outSize, model.get("mode"), model.get("padding"), goal);
  }

  build() {
    const { puzzle, family, aspect, reach } = this;
    this.usesParts = !!family.parts && !puzzle;
    this.point = 0;
    this.view = picture("Source image");
    this.overlay = h("canvas", { "aria-hidden": true });
    this.handles = pairs(family.handles).map((target, i) => this.handle(target, i));
    this.told = h("p", { class: "tx-probe", "aria-live": "polite" });
    this.output = picture("Output image");
    this.screen = this.outputScreen();
    [this.goalCanvas, this.difference] = ["Goal", "Output less goal"].map(picture);
    this.sliderBox = group("tx-sliders", "Parameters");
    const box = (name, ratio, ...content) => h("div", { class: name, style: `aspect-ratio: ${ratio}` }, ...content);
    this.root.replaceChildren(
      h("div", { class: puzzle ? "tx-top tx-puzzle" : "tx-top" },
        figure("source", "Source", " where θ looks",
          box("tx-stage", (aspect * reach[0]) / reach[1], this.view, this.overlay, ...this.handles)),
        figure("output", "Output", " what it sees", box("tx-box", aspect, this.screen), this.told),
        ...(puzzle ? [h("div", { class: "tx-goals" }, figure("goal", "Goal", "", this.goalCanvas),
          figure("goal", "Error", "", this.difference))] : []),
        this.numberBox()),
      ...(puzzle ? [this.lossPanel()] : []), this.presetRow(), this.sliderBox, this.settingsRow());
    this.fillSliders();
  }

  handle(target, i) {
    const corners = ["Top left", "Top right", "Bottom right", "Bottom left", "Centre"];
    const place = () => this.family.points(this.theta, target);
    const drag = (x, y) => this.move(this.family.drag(this.theta, target, [x, y], i));
    const where = (event) => within(this.overlay, event).map((share, axis) => (2 * share - 1) * this.reach[axis]);
    let grip = null;  // from the pointer to the handle, so that nothing jumps when it is taken
    const node = button("", null, {
      class: "tx-handle", title: "drag, or arrow keys", "data-name": this.family.matrix ? corners[i] : `Control point ${i + 1}`,
      onfocus: () => { this.point = i; this.fillSliders(); this.schedule(); },
      onpointerdown: (event) => {
        const [x, y] = where(event), [u, v] = place();
        grip = [u - x, v - y];
        node.setPointerCapture(event.pointerId);
        node.focus();
        event.preventDefault();
      },
      onpointermove: (event) => {
        const [x, y] = where(event);
        if (grip) drag(x + grip[0], y + grip[1]);
      },
      onlostpointercapture: () => { grip = null; },
      onkeydown: onArrows((dx, dy, fast) => {
        const [x, y] = place(), step = fast ? 0.1 : 0.02;
        drag(x + step * dx, y + step * dy);
      }),
    });
    return node;
  }

  /** The output: point at a pixel, or use arrow keys, to be told where it looks. */
  outputScreen() {
    this.cursor = h("span", { class: "tx-cursor" });
    const pick = (column, row) => {
      this.probe = [clamp(column, 0, this.outSize[1] - 1), clamp(row, 0, this.outSize[0] - 1)].map(Math.floor);
      this.schedule();
    };
    const point = (event) => {
      const [x, y] = within(this.output, event);
      pick(x * this.outSize[1], y * this.outSize[0]);
    };
    return h("div", {
      class: "tx-screen", tabindex: 0, role: "application", "aria-label": "Output: arrow keys pick a pixel",
      onpointermove: point, onpointerdown: point,
      onkeydown: onArrows((dx, dy) => { const [column, row] = this.probe ?? [0, 0]; pick(column + dx, row + dy); }),
    }, this.output, this.cursor);
  }

  lossPanel() {
    this.curve = h("div", { class: "tx-curve" });
    this.curve.innerHTML = '<svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true"><polyline/></svg>';
    this.lossText = h("output", { class: "tx-loss" });
    this.verdict = h("p", { class: "tx-verdict", role: "status" });
    const rate = slider("rate", (value) => {
      this.rate = 10 ** (value - 1);
      this.schedule();
    });
    this.rateText = rate.value;
    rate.input.value = 1 + Math.log10(this.rate);
    const buttons = [["Gradient step", 1], ["50 steps", 50]].map(([label, count]) => button(label, () => this.descend(count)));
    return group("tx-panel", "Loss", h("div", null, this.lossText, this.curve),
      h("div", null, h("div", { class: "tx-row" }, ...buttons), rate.row), this.verdict);
  }

  presetRow() {
    const { puzzle, family } = this, { presets, puzzles } = this.model.get("presets");
    const chips = Object.entries(puzzle ? puzzles : presets).map(([name, theta]) =>
      button(name, () => (puzzle ? this.restart(theta) : this.glide(theta)), { class: "tx-chip" }));
    const reset = () => (puzzle ? this.restart(this.model.get("hidden")) : this.glide(family.identity));
    return group("tx-row", puzzle ? "Puzzles" : "Presets", ...chips, button("Reset", reset, { class: "tx-reset" }));
  }

  /** A slider for each parameter; of a spline, for those of the point in hand. */
  fillSliders() {
    const { family, point, puzzle, usesParts, sliderBox } = this, { names } = usesParts ? family.parts : family;
    const shown = family.matrix ? [...names.keys()] : [2 * point, 2 * point + 1], key = `${usesParts} ${shown}`;
    if (sliderBox.dataset.key === key) return;
    sliderBox.dataset.key = key;
    sliderBox.style.setProperty("--columns", shown.length % 3 && shown.length < 7 ? 2 : 3);
    this.sliders = shown.map((k) => {
      const name = names[k], made = slider(name, (value) => this.turn(k, value)), gradient = h("output", { class: "tx-gradient" });
      const turns = name === "rotation";
      if (turns) Object.assign(made.input, { min: -180, max: 180, step: 1 });
      if (puzzle && !usesParts) made.row.append(gradient);
      return { ...made, gradient, k, digits: turns ? 0 : 2 };
    });
    sliderBox.replaceChildren(...this.sliders.map(({ row }) => row));
  }

  turn(k, value) {
    const values = this.sliderValues().with(k, value);
    if (this.usesParts) this.parts = values;
    this.move(this.usesParts ? this.family.parts.toTheta(values, this.aspect) : values);
  }

  /** θ, or its parts: those last set, as long as they say the same θ. */
  sliderValues() {
    const { theta, aspect, family: { parts } } = this;
    if (!this.usesParts) return theta;
    const same = this.parts && parts.toTheta(this.parts, aspect).every((value, k) => Math.abs(value - theta[k]) < 1e-9);
    return same ? this.parts : parts.fromTheta(theta, aspect);
  }

  settingsRow() {
    this.thumbs = this.images.map((image, i) => {
      const canvas = h("canvas");
      paint(canvas, image, this.size);
      return button(canvas, () => this.set({ index: i }), { class: "tx-thumb", "aria-label": `Image ${i + 1}` });
    });
    const sizes = [0.25, 0.5, 1, 2].map((f) => this.size.map((side) => Math.ceil(side * f)).join(" × "));
    this.choices = {
      padding: choice("Outside", ["zeros", "border"], (padding) => this.set({ padding })),
      mode: choice("Reading", ["bilinear", "nearest"], (mode) => this.set({ mode })),
      out_size: choice("Output size", sizes, (text) => this.set({ out_size: text.split(" × ").map(Number) })),
    };
    const words = choice("Sliders", ["entries of θ", "rotation, …"], () => {
      this.usesParts = words.box.selectedIndex === 1;
      this.fillSliders();
      this.schedule();
    });
    words.box.selectedIndex = +this.usesParts;
    return group("tx-row tx-settings", "Settings", ...(this.thumbs.length > 1 ? this.thumbs : []),
      ...(this.family.parts ? [words.node] : []), ...Object.values(this.choices).map(({ node }) => node));
  }

  numberBox() {
    const { family: { matrix, identity }, handles } = this;
    this.cells = matrix ? matrix(identity).map(() => h("span")) : handles.map((node) => button("", () => node.focus()));
    return figure("numbers", matrix ? "Matrix" : "Control points", "", group(matrix ? "tx-matrix" : "tx-points", "Numbers", ...this.cells));
  }

  showControls({ gradient }) {
    const { model, theta, cells, point } = this, values = this.sliderValues(), matrix = this.family.matrix?.(theta);
    for (const { k, input, value, digits, gradient: note } of this.sliders) {
      input.value = values[k];
      value.textContent = signed(values[k], digits);
      if (gradient) note.textContent = `∂L ${signed(gradient[k] ?? 0, 3)}`;
    }
    for (const [name, { box }] of Object.entries(this.choices)) {
      const text = [model.get(name)].flat().join(" × ");
      if (box.value === text) continue;
      if (![...box.options].some((option) => option.value === text)) box.append(h("option", null, text));
      box.value = text;
    }
    this.thumbs.forEach((node, i) => node.setAttribute("aria-pressed", i === model.get("index")));
    cells.forEach((cell, k) => {
      cell.textContent = matrix ? signed(matrix[k]) : `${signed(theta[2 * k])} ${signed(theta[2 * k + 1])}`;
      if (!matrix) cell.setAttribute("aria-pressed", k === point);
    });
  }

  showLoss({ loss, output, gradient }) {
    paint(this.difference, output.map((value, i) => Math.abs(value - this.goal[i])), this.outSize);
    const { history } = this;
    const top = Math.max(...history.map((entry) => entry.loss)), last = Math.max(history.length - 1, 1);
    this.lossText.textContent = `Loss ${loss.toFixed(4)}`;
    this.rateText.textContent = this.rate.toFixed(3);
    this.curve.querySelector("polyline").setAttribute("points",
      history.map((entry, i) => `${(100 * i) / last},${39 - (38 * entry.loss) / top}`).join(" "));
    const pull = Math.hypot(...gradient);
    const word = loss < 0.15 * top ? "Home." : pull < 0.01 ? "Hardly any pull: stuck." : "Thick arrows: ten steps.";
    this.verdict.textContent = `‖∂L/∂θ‖ = ${pull.toFixed(3)}. ${word}`;
  }

  drawOverlay(seen) {
    const { family, theta, reach, outSize: [height, width] } = this, padding = this.model.get("padding"), { source } = seen;
    if (this.padding !== padding) {
      this.padding = padding;
      const whole = throughMatrix([reach[0], 0, 0, 0, reach[1], 0, 0, 0, 1], targetPoints(this.viewSize));
      paint(this.view, sample(this.source, this.size, whole, "nearest", padding), this.viewSize);
    }
    const stroke = makePen(this.overlay, reach), through = (points) => family.points(theta, points);
    stroke("#888", 1, [[...CORNERS, -1, -1]]);  // the edge of the image
    const lines = [through(DOWN), through(ACROSS)];
    stroke(BLUE + "90", 1, lines, 17);
    const skip = Math.ceil((Math.max(height, width) * 12) / this.overlay.clientWidth), spots = [];
    for (let row = 0; row < height; row += skip)
      for (let column = 0; column < width; column += skip) spots.push(2 * (row * width + column));
    stroke(BLUE, 2, spots.map((i) => [source[i], source[i + 1], source[i], source[i + 1]]));
    stroke(ORANGE, 2.5, lines.flatMap((line) => [line.slice(0, 34), line.slice(-34)]));
    stroke(ORANGE, 7, [through(FLAG)]);
    if (this.puzzle) this.drawPulls(stroke, seen, spots);
    const places = pairs(through(family.handles));
    this.handles.forEach((node, i) => {
      const [left, top] = places[i].map((value, axis) => `${50 + 50 * clamp(value / reach[axis], -0.97, 0.97)}%`);
      Object.assign(node.style, { left, top });
      const [x, y] = places[i].map((value) => signed(value));
      node.setAttribute("aria-label", `${node.dataset.name}, x ${x}, y ${y}`);
    });
    this.showProbe(stroke, source);
  }

  /** Thin: where each pixel would rather look. Thick: the handles in ten steps. And the path so far. */
  drawPulls(stroke, seen, spots) {
    const { family, theta, history } = this, { source, pulls, loss } = seen, key = theta.join();
    if (history.at(-1)?.key !== key) history.push({ key, loss, at: family.points(theta, TRAIL) });
    if (history.length > 250) history.shift();
    const strength = (i) => Math.abs(pulls[i]) + Math.abs(pulls[i + 1]), longest = Math.max(1e-9, ...spots.map(strength));
    stroke(YELLOW + "b0", 1, spots.filter((i) => strength(i) > 0.15 * longest).map((i) => {
      const [x, y] = [source[i], source[i + 1]], scale = -0.2 / longest;
      return [x, y, x + scale * pulls[i], y + scale * pulls[i + 1]];
    }));
    stroke(ORANGE, 1.5, [0, 2].map((k) => history.flatMap(({ at }) => [at[k], at[k + 1]])));
    const to = pairs(family.points(this.ahead(seen, 10), family.handles));
    const arrows = pairs(family.points(theta, family.handles)).map(([x, y], i) => arrow(x, y, to[i][0] - x, to[i][1] - y));
    stroke("#000", 6, arrows);
    stroke(YELLOW, 3, arrows);
  }

  showProbe(stroke, source) {
    const { probe, cursor, told, outSize: [height, width] } = this;
    cursor.hidden = !probe;
    told.textContent = "Point here: where does a pixel look?";
    if (!probe) return;
    const [column, row] = probe, i = 2 * (row * width + column), [x, y] = source.subarray(i, i + 2);
    Object.assign(cursor.style, { left: `${(100 * column) / width}%`, top: `${(100 * row) / height}%`,
      width: `${100 / width}%`, height: `${100 / height}%` });
    for (const [color, line] of [["#000", 9], ["#fff", 5]]) stroke(color, line, [[x, y, x, y]]);
    told.textContent = `Row ${row}, column ${column} looks at (${signed(x)}, ${signed(y)}).`;
  }
}

/** anywidget's entry point. */
export default {
  render({ model, el }) {
    const explorer = new Explorer(model, el);
    return () => explorer.remove();
  },
};
