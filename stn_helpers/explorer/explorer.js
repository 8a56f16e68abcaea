// The θ explorer of the book "Where to Look": one ES module, no framework, no build step, two hosts.
// In a notebook anywidget calls `render` with a model that lives in the kernel; in the built page `mountAll` calls it
// with a StaticModel. Formulas and names are those of the Python package. Coordinates are (x, y), x right, y down, in
// [-1, 1] from edge to edge (align_corners=False); θ maps target (output) points to source (input) points. Points lie
// flat in memory: x₀, y₀, x₁, y₁, …; images too, row by row.

// ---- Grid generator ----

/** Target points whose denominator is not above this lie at or behind the horizon; they read outside the image. */
export const HORIZON = 1e-3;

/** Centres of n pixels along an axis of length 2. */
export const pixelCenters = (n) => Array.from({ length: n }, (_, i) => (2 * i + 1) / n - 1);

const cache = new Map();
const cached = (key, make) => {
  if (!cache.has(key)) cache.set(key, make());
  return cache.get(key);
};

/** The pixel centres of an output image, row by row. One array per size, so that a spline's basis can be kept for it. */
export const targetPoints = ([height, width]) =>
  cached(`${height}×${width}`, () =>
    Float64Array.from(pixelCenters(height).flatMap((y) => pixelCenters(width).flatMap((x) => [x, y]))));

/** Points through a 3×3 matrix (9 numbers, row by row): X/w and Y/w, or far outside where w is behind the horizon. */
export function throughMatrix(m, points) {
  const source = new Float64Array(points.length);
  for (let i = 0; i < points.length; i += 2) {
    const x = points[i], y = points[i + 1], w = m[6] * x + m[7] * y + m[8];
    source[i] = w > HORIZON ? (m[0] * x + m[1] * y + m[2]) / w : 1 / HORIZON;
    source[i + 1] = w > HORIZON ? (m[3] * x + m[4] * y + m[5]) / w : 1 / HORIZON;
  }
  return source;
}

/** ∂L/∂m, the first 8 entries, from `pulls` = ∂L/∂(x, y) of every source point: the chain rule through X/w and Y/w. */
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

/** Solves A X = B (rows of numbers) by Gaussian elimination with pivoting; null where A is singular. */
export function solve(A, B) {
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

/** U = r² log r of the thin plate spline, from r². */
const thinPlateKernel = (r2) => (r2 > 0 ? 0.5 * r2 * Math.log(r2) : 0);

const pairs = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);

const CONTROL = [-1, -1 / 3, 1 / 3, 1].flatMap((y) => [-1, -1 / 3, 1 / 3, 1].flatMap((x) => [x, y]));

/** [U, P; Pᵀ, 0]⁻¹ without its last three columns: spline coefficients from values at the control points. */
const thinPlateCoefficients = () => cached("spline", () => {
  const control = pairs(CONTROL), K = control.length, one = [0, 1, 2];
  const system = control.map(([x, y]) => [
    ...control.map(([u, v]) => thinPlateKernel((x - u) ** 2 + (y - v) ** 2)), 1, x, y]);
  for (const c of one) system.push([...system.slice(0, K).map((row) => row[K + c]), 0, 0, 0]);
  return solve(system, system.map((_, i) => control.map((_, k) => (i === k ? 1 : 0))));
});

/** Points×K matrix that takes control points to source points, kept for as long as `points` lives. */
const bases = new WeakMap();
function thinPlateBasis(points) {
  if (!bases.has(points)) {
    const coefficients = thinPlateCoefficients(), control = pairs(CONTROL), K = control.length;
    const basis = new Float64Array((points.length / 2) * K);
    pairs(points).forEach(([x, y], i) => {
      const row = [...control.map(([u, v]) => thinPlateKernel((x - u) ** 2 + (y - v) ** 2)), 1, x, y];
      for (let k = 0; k < K; k++) basis[i * K + k] = row.reduce((sum, value, j) => sum + value * coefficients[j][k], 0);
    });
    bases.set(points, basis);
  }
  return bases.get(points);
}

/** The homography (8 numbers) that takes the corners of the target to four points; null where there is none. */
export function cornersToTheta(corners) {
  const rows = [], values = [];
  pairs(CORNERS).forEach(([x, y], i) => {
    const [u, v] = corners[i];
    rows.push([x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]);
    values.push([u], [v]);
  });
  const theta = solve(rows, values)?.flat();
  // Four points that fold over send a corner behind the horizon.
  return theta && pairs(CORNERS).every(([x, y]) => theta[6] * x + theta[7] * y + 1 > 0.05) ? theta : null;
}

// ---- Families: θ in words, in matrices, under the hand ----

const CORNERS = [-1, -1, 1, -1, 1, 1, -1, 1];
const CORNER_HANDLES = { at: [...CORNERS, 0, 0], names: [
  "Top left corner", "Top right corner", "Bottom right corner", "Bottom left corner", "Centre"] };
const turn = (degrees, scale = 1) => [
  scale * Math.cos((degrees * Math.PI) / 180), scale * Math.sin((degrees * Math.PI) / 180)];
const range = (min, max, step = 0.01) => ({ min, max, step });
const ENTRY = range(-2, 2), SHIFT = range(-1.5, 1.5), ANGLE = range(-180, 180, 1), SCALE = range(0.05, 2.5);
const ENTRIES = [11, 12, 13, 21, 22, 23, 31, 32].map((k) => `θ_${k}`);

/** A family whose θ fills a 3×3 matrix; `chain` takes ∂L/∂matrix back to ∂L/∂θ. */
const matrixFamily = (family) => ({
  ...family,
  handles: CORNER_HANDLES,
  points: (theta, points) => throughMatrix(family.matrix(theta), points),
  gradient: (theta, points, source, pulls) =>
    family.chain(matrixGradient(family.matrix(theta), points, source, pulls)),
});

const affineMatrix = (a, b, tx, c, d, ty) => [a, b, tx, c, d, ty, 0, 0, 1];

/** A = R(φ) · [[1, k], [0, 1]] · diag(scale x, scale y): first scaled, then sheared, then turned. */
const affineParts = {
  names: ["rotation", "scale x", "scale y", "shear", "shift x", "shift y"],
  ranges: [ANGLE, SCALE, range(-2.5, 2.5), range(-2, 2), SHIFT, SHIFT],
  toTheta([degrees, sx, sy, shear, tx, ty]) {
    const [cos, sin] = turn(degrees);
    return [cos * sx, (cos * shear - sin) * sy, tx, sin * sx, (sin * shear + cos) * sy, ty];
  },
  fromTheta([a, b, tx, c, d, ty]) {
    const sx = Math.hypot(a, c), [cos, sin] = sx ? [a / sx, c / sx] : [1, 0], sy = cos * d - sin * b;
    return [(Math.atan2(sin, cos) * 180) / Math.PI, sx, sy, sy ? (cos * b + sin * d) / sy : 0, tx, ty];
  },
};

export const FAMILIES = {
  affine: matrixFamily({
    identity: [1, 0, 0, 0, 1, 0],
    names: ENTRIES.slice(0, 6),
    ranges: Array(6).fill(ENTRY),
    parts: affineParts,
    matrix: (theta) => affineMatrix(...theta),
    chain: (d) => d.slice(0, 6),
    /** The dragged corner and the one opposite move; the other diagonal and the centre stay. */
    drag([a, b, tx, c, d, ty], [cx, cy], [x, y]) {
      if (!cx) return [a, b, x, c, d, y];
      const [qx, qy] = [x - tx, y - ty], [rx, ry] = [a * cx - b * cy, c * cx - d * cy];
      return [(qx + rx) / (2 * cx), (qx - rx) / (2 * cy), tx, (qy + ry) / (2 * cx), (qy - ry) / (2 * cy), ty];
    },
  }),
  attention: matrixFamily({
    identity: [1, 0, 0],
    names: ["s", "t_x", "t_y"],
    ranges: [range(-2, 2), SHIFT, SHIFT],
    matrix: ([s, tx, ty]) => affineMatrix(s, 0, tx, 0, s, ty),
    chain: (d) => [d[0] + d[4], d[2], d[5]],
    drag: ([s, tx, ty], [cx, cy], [x, y]) => cx ? [(cx * (x - tx) + cy * (y - ty)) / 2, tx, ty] : [s, x, y],
  }),
  similarity: matrixFamily({
    identity: [1, 0, 0, 0],
    names: ["a", "b", "t_x", "t_y"],
    ranges: [ENTRY, ENTRY, SHIFT, SHIFT],
    parts: {
      names: ["rotation", "scale", "shift x", "shift y"],
      ranges: [ANGLE, SCALE, SHIFT, SHIFT],
      toTheta: ([degrees, scale, tx, ty]) => [...turn(degrees, scale), tx, ty],
      fromTheta: ([a, b, tx, ty]) => [(Math.atan2(b, a) * 180) / Math.PI, Math.hypot(a, b), tx, ty],
    },
    matrix: ([a, b, tx, ty]) => affineMatrix(a, -b, tx, b, a, ty),
    chain: (d) => [d[0] + d[4], d[3] - d[1], d[2], d[5]],
    drag([a, b, tx, ty], [cx, cy], [x, y]) {
      const [qx, qy] = [x - tx, y - ty];
      return cx ? [(cx * qx + cy * qy) / 2, (cx * qy - cy * qx) / 2, tx, ty] : [a, b, x, y];
    },
  }),
  projective: matrixFamily({
    identity: [1, 0, 0, 0, 1, 0, 0, 0],
    names: ENTRIES,
    ranges: [...Array(6).fill(ENTRY), SHIFT, SHIFT],
    matrix: (theta) => [...theta, 1],
    chain: (d) => d,
    /** A corner moves alone, the other three stay; the centre takes everything along. */
    drag(theta, [cx, cy], [x, y]) {
      const corners = pairs(this.points(theta, CORNERS));
      if (cx) return cornersToTheta(corners.map((p, i) => (CORNERS[2 * i] === cx && CORNERS[2 * i + 1] === cy ? [x, y] : p)));
      const [a, b, tx, c, d, ty, g, h] = theta, dx = x - tx, dy = y - ty;
      return [a + dx * g, b + dx * h, x, c + dy * g, d + dy * h, y, g, h];
    },
  }),
  tps: {
    identity: CONTROL,
    names: CONTROL.map((_, i) => `${"xy"[i % 2]} of point ${Math.floor(i / 2) + 1}`),
    ranges: CONTROL.map(() => range(-1.8, 1.8)),
    handles: { at: CONTROL, names: pairs(CONTROL).map((_, k) =>
      `Control point ${k + 1}, row ${Math.floor(k / 4) + 1}, column ${(k % 4) + 1}`) },
    points(theta, points) {
      const basis = thinPlateBasis(points), K = theta.length / 2, source = new Float64Array(points.length);
      for (let i = 0, b = 0; i < points.length; i += 2) {
        let x = 0, y = 0;
        for (let k = 0; k < K; k++, b++) { x += basis[b] * theta[2 * k]; y += basis[b] * theta[2 * k + 1]; }
        source[i] = x; source[i + 1] = y;
      }
      return source;
    },
    gradient(theta, points, source, pulls) {
      const basis = thinPlateBasis(points), K = theta.length / 2, d = new Array(theta.length).fill(0);
      for (let i = 0, b = 0; i < points.length; i += 2)
        for (let k = 0; k < K; k++, b++) { d[2 * k] += basis[b] * pulls[i]; d[2 * k + 1] += basis[b] * pulls[i + 1]; }
      return d;
    },
    drag: (theta, [cx, cy], [x, y]) => pairs(theta).flatMap((p, k) =>
      (CONTROL[2 * k] === cx && CONTROL[2 * k + 1] === cy ? [x, y] : p)),
  },
};

// ---- Sampler ----

/** Half to even, as torch's nearest mode does it. */
function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** [-1, 1] → pixel units, in which pixel i has its centre at i. */
function toPixels(coordinate, n, padding) {
  const pixel = ((coordinate + 1) * n - 1) / 2;
  return padding === "border" ? Math.min(Math.max(pixel, 0), n - 1) : pixel;
}

/** Reads `image` (flat, of `size` [H, W]) at the points of `grid`. Into `slopes`, where given, go ∂V/∂x and ∂V/∂y of
 *  every point: equation 7 of the paper, with the derivative to the right at a pixel centre, as torch takes it. */
export function sample(image, [height, width], grid, mode = "bilinear", padding = "zeros", slopes = null) {
  const output = new Float64Array(grid.length / 2);
  const at = (row, column) =>
    (row >= 0 && row < height && column >= 0 && column < width ? image[row * width + column] : 0);
  for (let i = 0; i < output.length; i++) {
    const x = toPixels(grid[2 * i], width, padding), y = toPixels(grid[2 * i + 1], height, padding);
    if (mode === "nearest") { output[i] = at(roundHalfEven(y), roundHalfEven(x)); continue; }
    const left = Math.floor(x), top = Math.floor(y), wx = x - left, wy = y - top;
    const a = at(top, left), b = at(top, left + 1), c = at(top + 1, left), d = at(top + 1, left + 1);
    output[i] = (1 - wy) * ((1 - wx) * a + wx * b) + wy * ((1 - wx) * c + wx * d);
    if (!slopes) continue;
    const still = (value, n) => padding === "border" && (value <= 0 || value >= n - 1);  // clamped: nothing moves
    slopes[2 * i] = still(x, width) ? 0 : (width / 2) * ((1 - wy) * (b - a) + wy * (d - c));
    slopes[2 * i + 1] = still(y, height) ? 0 : (height / 2) * ((1 - wx) * (c - a) + wx * (d - b));
  }
  return output;
}

/** Warps `image` by θ: the grid generator, then the sampler. */
export function warp(image, size, family, theta, outSize, mode, padding) {
  return sample(image, size, FAMILIES[family].points(theta, targetPoints(outSize)), mode, padding);
}

/** L = mean (V − target)², with ∂L/∂θ and, per output pixel, `pulls` = ∂L/∂(x, y) of the point it reads. */
export function lossAndGradient(image, size, family, theta, outSize, mode, padding, target) {
  const points = targetPoints(outSize), source = FAMILIES[family].points(theta, points);
  const pulls = new Float64Array(source.length), output = sample(image, size, source, mode, padding, pulls);
  let loss = 0;
  output.forEach((value, i) => {
    const residual = value - target[i], scale = (2 * residual) / output.length;
    loss += (residual * residual) / output.length;
    pulls[2 * i] *= scale;
    pulls[2 * i + 1] *= scale;
  });
  return { loss, pulls, output, source, gradient: FAMILIES[family].gradient(theta, points, source, pulls) };
}

// ---- What one sees and touches ----

const TRAITS = ["family", "theta", "index", "out_size", "padding", "mode", "hidden", "presets"];
const FRAME = [...Array(65).keys()].flatMap((i) => {  // once around the edge of the output
  const t = (i % 16) / 8 - 1;
  return [[t, -1], [1, t], [-t, 1], [-1, -t]][Math.floor(i / 16) % 4];
});
const FLAG = [-1, -1, -0.84, -1, -1, -0.84];  // marks the top left, so that a mirrored frame shows
const TRAIL = [0, 0, -1, -1];  // the points whose path is drawn
const MESH = [...Array(9).keys()].map((i) => i / 4 - 1).flatMap((c) => [...Array(17).keys()].map((i) => [c, i / 8 - 1]));
const DOWN = MESH.flat(), ACROSS = MESH.flatMap(([c, t]) => [t, c]);
const BLUE = "#56b4e9", ORANGE = "#f0a020", YELLOW = "#f0e442";  // told apart in every common colour blindness
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const signed = (value, digits = 2) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const motionless = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
let ids = 0;

/** An element with attributes, listeners (on…) and children. */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const button = (label, onclick, attributes) => h("button", { type: "button", onclick, ...attributes }, label);
const picture = (label) => h("canvas", { role: "img", "aria-label": label });
const figure = (title, note, area, ...content) =>
  h("figure", { class: `tx-${area}` }, h("figcaption", {}, title, h("span", {}, note)), ...content);

/** A labelled slider and its value, in one row; "θ_11" is θ with 11 as its subscript. */
function slider(name, limits, oninput) {
  const id = `tx-${++ids}`, input = h("input", { type: "range", id, ...limits, oninput: () => oninput(input.valueAsNumber) });
  const value = h("output", { for: id }), label = name.split("_").map((part, i) => (i ? h("sub", {}, part) : part));
  return { input, value, row: h("div", { class: "tx-slider" }, h("label", { for: id }, ...label), input, value) };
}

/** Grey values in [0, 1] into a canvas of as many pixels. */
function paint(canvas, values, [height, width]) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pixels = new ImageData(width, height), words = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = 0xff000000 | (Math.round(values[i] * 255) * 0x010101);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

class Explorer {
  constructor(model, el) {
    this.model = model;
    const [count, height, width] = model.get("shape"), area = height * width;
    const bytes = Uint8Array.from(atob(model.get("pixels")), (c) => c.charCodeAt(0));
    this.size = [height, width];
    this.images = Array.from({ length: count }, (_, i) =>
      Float64Array.from(bytes.subarray(i * area, (i + 1) * area), (byte) => byte / 255));
    const margin = Math.round(0.2 * Math.max(height, width));
    this.viewSize = [height + 2 * margin, width + 2 * margin];
    this.reach = [this.viewSize[1] / width, this.viewSize[0] / height];  // the view shows x in ±reach[0]
    this.rate = 0.05;
    this.root = h("div", { class: "theta-explorer", role: "group" });
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

  // -- state --

  get family() { return FAMILIES[this.model.get("family")]; }
  get outSize() { return this.model.get("out_size"); }

  /** The model's θ; the identity in the moment between a new family and its θ. */
  get theta() {
    const theta = this.model.get("theta"), { identity } = this.family;
    return theta.length === identity.length ? theta : identity;
  }

  set(changes) {
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    this.model.save_changes();
  }

  /** θ from the reader's hand: ends whatever moves by itself. */
  move(theta) {
    cancelAnimationFrame(this.motion);
    if (theta?.every(Number.isFinite)) this.set({ theta });
  }

  /** Calls `step` once a frame until it says false; all at once for those who want no motion. */
  animate(step) {
    cancelAnimationFrame(this.motion);
    if (motionless()) { while (step(Infinity)); return; }
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

  /** Plain gradient descent, θ ← θ − rate · ∂L/∂θ. */
  descend(steps) {
    this.animate(() => {
      const { gradient } = this.look();
      this.set({ theta: this.theta.map((value, k) => value - this.rate * gradient[k]) });
      this.frame();
      return --steps > 0;
    });
  }

  /** The identity again; in a puzzle the path so far is forgotten, and `puzzle` may be another. */
  restart(puzzle) {
    if (!this.challenge) return this.glide(this.family.identity);
    this.task = null;
    this.move(this.family.identity);
    this.set({ hidden: puzzle ?? this.model.get("hidden") });
    this.schedule();
  }

  // -- one frame --

  frame() {
    cancelAnimationFrame(this.pending);
    this.pending = 0;
    const get = (name) => this.model.get(name), hidden = get("hidden");
    const built = JSON.stringify([get("family"), hidden.length, get("presets")]);
    const task = [built, get("index"), hidden, this.outSize].join();
    this.challenge = hidden.length === this.family.identity.length;
    if (this.built !== built) this.build();
    if (this.task !== task) this.begin();
    Object.assign(this, { built, task });
    const seen = this.look();
    paint(this.output, seen.output, this.outSize);
    if (this.challenge) this.showLoss(seen);
    this.showControls(seen);
    this.drawOverlay(seen);
  }

  /** The picture to warp: the image; in a puzzle the image behind the hidden θ, with the upright one as the goal. */
  begin() {
    const { model, size, outSize } = this, upright = this.images[model.get("index")];
    this.source = this.challenge ? warp(upright, size, model.get("family"), model.get("hidden"), size) : upright;
    this.goal = warp(upright, size, "attention", [1, 0, 0], outSize);
    this.history = [];
    this.probe = this.padding = null;
    if (this.challenge) paint(this.goalCanvas, this.goal, outSize);
    const [height, width] = outSize, fit = Math.min(1, ((width / height) * size[0]) / size[1]);
    Object.assign(this.screen.style, { width: `${100 * fit}%`, aspectRatio: `${width} / ${height}` });
  }

  look() {
    const { model, family, theta, source: image, size, outSize } = this, mode = model.get("mode"), padding = model.get("padding");
    if (this.challenge) return lossAndGradient(image, size, model.get("family"), theta, outSize, mode, padding, this.goal);
    const source = family.points(theta, targetPoints(outSize));
    return { source, output: sample(image, size, source, mode, padding) };
  }

  // -- building --

  build() {
    const { challenge, family, size } = this, [height, width] = this.viewSize;
    this.usesParts = !!family.parts && !challenge;
    this.point = 0;
    this.view = picture("Source image, with what lies outside around it");
    this.overlay = h("canvas", { "aria-hidden": "true" });
    this.handles = family.handles.names.map((name, i) => this.handle(name, i));
    this.numbers = h("div", { class: "tx-numbers" });
    this.told = h("p", { class: "tx-probe", "aria-live": "polite" });
    this.output = picture("Output image");
    this.screen = this.outputScreen();
    this.goalCanvas = picture("Goal: the upright image");
    this.difference = picture("Difference between output and goal");
    this.sliderBox = h("div", { class: "tx-sliders" });
    this.root.setAttribute("aria-label", `θ explorer, ${this.model.get("family")} family`);
    this.root.replaceChildren(
      h("div", { class: challenge ? "tx-top tx-challenge" : "tx-top" },
        figure("Source ", "where θ looks", "source",
          h("div", { class: "tx-stage", style: `aspect-ratio: ${width} / ${height}` }, this.view, this.overlay, ...this.handles)),
        figure("Output ", "what it sees", "output",
          h("div", { class: "tx-box", style: `aspect-ratio: ${size[1]} / ${size[0]}` }, this.screen), this.told),
        ...(challenge ? [h("div", { class: "tx-goals" },
          figure("Goal", "", "goal", this.goalCanvas), figure("Difference", "", "goal", this.difference))] : []),
        this.numbers),
      ...(challenge ? [this.lossPanel()] : []), this.presetRow(),
      h("div", { role: "group", "aria-label": "Parameters" }, this.sliderBox), this.settingsRow());
    this.buildNumbers();
    this.fillSliders();
  }

  handle(name, i) {
    const target = pairs(this.family.handles.at)[i];
    const place = () => this.family.points(this.theta, target);
    const drag = (x, y) => this.move(this.family.drag(this.theta, target, [x, y]));
    const where = ({ clientX, clientY }) => {
      const { left, top, width, height } = this.overlay.getBoundingClientRect();
      return [((2 * (clientX - left)) / width - 1) * this.reach[0], ((2 * (clientY - top)) / height - 1) * this.reach[1]];
    };
    let grip = null;  // from the pointer to the handle, so that nothing jumps when it is taken
    const node = button("", () => {}, {
      class: "tx-handle", "data-name": name,
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
      onkeydown: (event) => {
        const [dx, dy] = ARROWS[event.key] ?? [], [x, y] = place(), step = event.shiftKey ? 0.1 : 0.02;
        if (dx === undefined) return;
        drag(x + step * dx, y + step * dy);
        event.preventDefault();
      },
    });
    return node;
  }

  /** The output; who points at one of its pixels, with pointer or arrow keys, sees where it looks. */
  outputScreen() {
    this.cursor = h("span", { class: "tx-cursor" });
    const pick = (row, column) => {
      this.probe = [clamp(row, 0, this.outSize[0] - 1), clamp(column, 0, this.outSize[1] - 1)];
      this.schedule();
    };
    const point = (event) => {
      const { left, top, width, height } = this.output.getBoundingClientRect();
      pick(Math.floor(((event.clientY - top) / height) * this.outSize[0]), Math.floor(((event.clientX - left) / width) * this.outSize[1]));
    };
    return h("div", {
      class: "tx-screen", tabindex: "0", role: "application", "aria-label": "Output: arrow keys pick a pixel and tell where it looks",
      onpointermove: point, onpointerdown: point,
      onkeydown: (event) => {
        const [dx, dy] = ARROWS[event.key] ?? [], [row, column] = this.probe ?? [0, 0];
        if (dx === undefined) return;
        pick(row + dy, column + dx);
        event.preventDefault();
      },
    }, this.output, this.cursor);
  }

  lossPanel() {
    this.curve = h("div", { class: "tx-curve" });
    this.curve.innerHTML = '<svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true"><polyline/></svg>';
    this.lossText = h("output", { class: "tx-loss" });
    this.verdict = h("p", { class: "tx-verdict", role: "status" });
    const rate = slider("rate", { min: -3, max: 0, step: 0.05, value: Math.log10(this.rate) }, (value) => {
      this.rate = 10 ** value;
      rate.value.textContent = this.rate.toFixed(3);
      this.schedule();
    });
    rate.value.textContent = this.rate.toFixed(3);
    return h("div", { class: "tx-panel" }, h("div", {}, this.lossText, this.curve),
      h("div", {}, h("div", { class: "tx-row" }, button("Gradient step", () => this.descend(1)),
        button("50 steps", () => this.descend(50))), rate.row),
      this.verdict);
  }

  presetRow() {
    const [kind, act] = this.challenge ? ["puzzles", (theta) => this.restart(theta)] : ["presets", (theta) => this.glide(theta)];
    const chips = Object.entries(this.model.get("presets")[kind]).map(([name, theta]) =>
      button(name, () => act(theta), { class: "tx-chip" }));
    return h("div", { class: "tx-row", role: "group", "aria-label": kind }, ...chips,
      button("Reset", () => this.restart(), { class: "tx-reset" }));
  }

  /** One slider for each parameter; of a spline, for the two of the control point in hand. */
  fillSliders() {
    const { family, point, challenge, usesParts } = this, { names, ranges } = usesParts ? family.parts : family;
    const shown = family.matrix ? [...names.keys()] : [2 * point, 2 * point + 1], key = [usesParts, ...shown].join();
    if (this.sliderBox.dataset.key === key) return;
    this.sliders = shown.map((k) => {
      const made = slider(names[k], ranges[k], (value) => this.turn(k, value));
      if (challenge && !usesParts) made.row.append((made.gradient = h("output", { class: "tx-gradient" })));
      return { ...made, k, digits: ranges[k].step < 1 ? 2 : 0 };
    });
    this.sliderBox.dataset.key = key;
    this.sliderBox.style.setProperty("--columns", shown.length % 3 === 1 ? 2 : Math.min(3, shown.length));
    this.sliderBox.replaceChildren(...this.sliders.map(({ row }) => row));
  }

  turn(k, value) {
    const values = this.sliderValues().with(k, value);
    if (this.usesParts) this.parts = values;
    this.move(this.usesParts ? this.family.parts.toTheta(values) : values);
  }

  /** What the sliders show: θ, or its parts; those the reader set, as long as they say the same θ. */
  sliderValues() {
    const { theta, family: { parts } } = this;
    if (!this.usesParts) return theta;
    const same = this.parts && parts.toTheta(this.parts).every((value, k) => Math.abs(value - theta[k]) < 1e-9);
    return same ? this.parts : parts.fromTheta(theta);
  }

  settingsRow() {
    const thumbs = this.images.length < 2 ? [] : this.images.map((image, i) => {
      const canvas = h("canvas", {});
      paint(canvas, image, this.size);
      return button(canvas, () => this.set({ index: i }), { class: "tx-thumb", "aria-label": `Image ${i + 1}` });
    });
    const choice = (label, options, onchange) => {
      const box = h("select", { onchange: () => onchange(box.value) }, ...options.map((option) => h("option", {}, option)));
      return { box, node: h("label", {}, label, box) };
    };
    const sizes = [0.25, 0.5, 1, 2].map((f) => this.size.map((side) => Math.ceil(side * f)).join(" × "));
    this.thumbs = thumbs;
    this.choices = {
      padding: choice("Outside", ["zeros", "border"], (padding) => this.set({ padding })),
      mode: choice("Reading", ["bilinear", "nearest"], (mode) => this.set({ mode })),
      out_size: choice("Output size", sizes, (text) => this.set({ out_size: text.split(" × ").map(Number) })),
    };
    const parts = choice("Sliders", ["entries", "rotation, scale, …"], () => {
      this.usesParts = parts.box.selectedIndex === 1;
      this.fillSliders();
      this.schedule();
    });
    parts.box.selectedIndex = +this.usesParts;
    return h("div", { class: "tx-row tx-settings" }, ...thumbs, ...(this.family.parts ? [parts.node] : []),
      ...Object.values(this.choices).map(({ node }) => node));
  }

  buildNumbers() {
    const { family, handles, numbers } = this;
    if (!family.matrix) {
      this.cells = handles.map((node) => button("", () => node.focus()));
      numbers.replaceChildren(h("p", {}, "Control points x, y"), h("div", { class: "tx-points" }, ...this.cells));
      return;
    }
    this.cells = Array.from({ length: family.identity.length > 6 ? 9 : 6 }, () => h("td", {}));
    const rows = [0, 3, 6].map((i) => h("tr", {}, ...this.cells.slice(i, i + 3)));
    numbers.replaceChildren(h("p", {}, "Matrix"), h("table", { class: "tx-matrix" }, ...rows));
  }

  // -- showing --

  showControls({ gradient }) {
    const { model, theta, cells, point } = this, values = this.sliderValues(), matrix = this.family.matrix?.(theta);
    for (const { k, input, value, digits, gradient: note } of this.sliders) {
      input.value = values[k];
      value.textContent = signed(values[k], digits);
      if (note) note.textContent = `∂L ${signed(gradient[k], 3)}`;
    }
    for (const [name, { box }] of Object.entries(this.choices)) {
      const text = [model.get(name)].flat().join(" × ");
      if (box.value === text) continue;
      if (![...box.options].some((option) => option.value === text)) box.append(h("option", {}, text));
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
    const { history, theta } = this, key = theta.join();
    if (history.at(-1)?.key !== key) history.push({ key, loss, at: this.family.points(theta, TRAIL) });
    if (history.length > 500) history.shift();
    const top = Math.max(...history.map((entry) => entry.loss)), last = Math.max(history.length - 1, 1);
    this.lossText.textContent = `Loss ${loss.toFixed(4)}`;
    this.curve.querySelector("polyline").setAttribute("points",
      history.map((entry, i) => `${(100 * i) / last},${39 - (38 * entry.loss) / top}`).join(" "));
    const pull = Math.hypot(...gradient), length = `‖∂L/∂θ‖ = ${pull.toFixed(3)}`;
    this.verdict.textContent = loss < 0.15 * top ? `${length}. Home.`
      : pull < 0.01 ? `${length}: hardly any pull, and not home. Stuck.` : `${length}. Thick arrows: ten steps.`;
  }

  drawOverlay(seen) {
    const { view, overlay, family, theta, reach, handles, outSize } = this, padding = this.model.get("padding"), { source } = seen;
    if (this.padding !== padding) {
      this.padding = padding;
      const whole = throughMatrix([reach[0], 0, 0, 0, reach[1], 0, 0, 0, 1], targetPoints(this.viewSize));
      paint(view, sample(this.source, this.size, whole, "nearest", padding), this.viewSize);
    }
    const ratio = devicePixelRatio, width = Math.round(overlay.clientWidth * ratio), height = Math.round(overlay.clientHeight * ratio);
    if (overlay.width !== width || overlay.height !== height) Object.assign(overlay, { width, height });
    const pen = overlay.getContext("2d"), X = (x) => ((x / reach[0] + 1) * width) / 2, Y = (y) => ((y / reach[1] + 1) * height) / 2;
    pen.clearRect(0, 0, width, height);
    const stroke = (color, lineWidth, draw) => {
      Object.assign(pen, { strokeStyle: color, lineWidth: lineWidth * ratio, lineJoin: "round" });
      pen.beginPath();
      draw();
      pen.stroke();
    };
    /** A line through points (flat), lifted every `length` points and where they lie behind the horizon. */
    const trace = (points, length = Infinity) => {
      for (let i = 0, down = false; i < points.length; i += 2) {
        const far = Math.abs(points[i]) + Math.abs(points[i + 1]) > 99;
        if (far || !down || (i / 2) % length === 0) pen.moveTo(X(points[i]), Y(points[i + 1]));
        else pen.lineTo(X(points[i]), Y(points[i + 1]));
        down = !far;
      }
    };
    stroke("#888", 1, () => pen.rect(X(-1), Y(-1), X(1) - X(-1), Y(1) - Y(-1)));
    stroke(BLUE + "90", 1, () => { for (const lines of [ACROSS, DOWN]) trace(family.points(theta, lines), 17); });
    const dot = 1.5 * ratio, skip = Math.ceil((Math.max(...outSize) * 9 * ratio) / width);
    pen.fillStyle = BLUE;
    for (let row = 0; row < outSize[0]; row += skip) for (let column = 0; column < outSize[1]; column += skip) {
      const i = 2 * (row * outSize[1] + column);
      pen.fillRect(X(source[i]) - dot / 2, Y(source[i + 1]) - dot / 2, dot, dot);
    }
    stroke(ORANGE, 2.5, () => trace(family.points(theta, FRAME)));
    pen.fillStyle = ORANGE;
    pen.beginPath();
    trace(family.points(theta, FLAG));
    pen.fill();
    if (this.challenge) this.drawPulls(stroke, trace, seen);
    const at = family.points(theta, family.handles.at), edge = (value) => `${50 + 50 * clamp(value, -0.97, 0.97)}%`;
    handles.forEach((node, i) => {
      Object.assign(node.style, { left: edge(at[2 * i] / reach[0]), top: edge(at[2 * i + 1] / reach[1]) });
      node.setAttribute("aria-label", `${node.dataset.name}, x ${signed(at[2 * i])}, y ${signed(at[2 * i + 1])}; arrow keys move it`);
    });
    this.showProbe(stroke, trace, source);
  }

  /** Thin: where each output pixel would rather look. Thick: the handles, ten steps from here. The path so far. */
  drawPulls(stroke, trace, { source, pulls, gradient }) {
    const { family, theta, history } = this, longest = pulls.reduce((most, pull) => Math.max(most, Math.abs(pull)), 1e-9);
    const arrow = (x, y, dx, dy) => {
      const u = x + dx, v = y + dy, length = Math.hypot(dx, dy), a = (0.05 * dx) / length, b = (0.05 * dy) / length;
      if (length > 0.01) trace([x, y, u, v, u - a - b, v - b + a, u, v, u - a + b, v - b - a]);
    };
    stroke(YELLOW + "b0", 1, () => {
      const scale = -0.2 / longest;
      for (let i = 0; i < pulls.length; i += 2) if (Math.hypot(pulls[i], pulls[i + 1]) > 0.15 * longest)
        trace([source[i], source[i + 1], source[i] + scale * pulls[i], source[i + 1] + scale * pulls[i + 1]]);
    });
    for (const k of [0, 2]) stroke(ORANGE, 1.5, () => trace(history.flatMap(({ at }) => [at[k], at[k + 1]])));
    const from = family.points(theta, family.handles.at);
    const to = family.points(theta.map((value, k) => value - 10 * this.rate * gradient[k]), family.handles.at);
    for (const [color, lineWidth] of [["#000", 6], [YELLOW, 3]]) stroke(color, lineWidth, () => {
      for (let i = 0; i < from.length; i += 2) arrow(from[i], from[i + 1], to[i] - from[i], to[i + 1] - from[i + 1]);
    });
  }

  showProbe(stroke, trace, source) {
    const { probe, cursor, told, outSize: [height, width] } = this;
    cursor.hidden = !probe;
    told.textContent = "Point at a pixel here: where does it look?";
    if (!probe) return;
    const [row, column] = probe, i = 2 * (row * width + column), x = source[i], y = source[i + 1];
    Object.assign(cursor.style, { left: `${(100 * column) / width}%`, top: `${(100 * row) / height}%`,
      width: `${100 / width}%`, height: `${100 / height}%` });
    for (const [color, lineWidth] of [["#000", 6], ["#fff", 2.5]])
      stroke(color, lineWidth, () => trace([x - 0.08, y, x + 0.08, y, x, y - 0.08, x, y + 0.08], 2));
    told.textContent = `Row ${row}, column ${column} looks at (${signed(x)}, ${signed(y)}).`;
  }
}

// ---- Two hosts ----

/** Stands in for the kernel in the built page: holds the state and tells who listens. */
export class StaticModel {
  constructor(state) { this.state = state; this.listeners = []; }
  get(name) { return this.state[name]; }
  set(name, value) {
    this.state[name] = value;
    for (const [event, listener] of this.listeners) if (event === `change:${name}`) listener();
  }
  on(event, listener) { this.listeners.push([event, listener]); }
  off() {}
  save_changes() {}
}

/** anywidget's entry point. */
function render({ model, el }) {
  const explorer = new Explorer(model, el);
  return () => explorer.remove();
}

/** Brings every explorer of a built page to life. */
export function mountAll() {
  for (const el of document.querySelectorAll("[data-theta-explorer]")) {
    el.replaceChildren();
    render({ model: new StaticModel(JSON.parse(el.dataset.thetaExplorer)), el });
  }
}

export default { render };
