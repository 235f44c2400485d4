// Draws objects into SVG: cameras in the pixels of their images, the view from above in metres.

const SVG = "http://www.w3.org/2000/svg";
const RING_STEP = 10; // metres between range rings
const EGO = [[2.9, 0.6], [2.3, 0.95], [-1.7, 0.95], [-1.9, 0.7],
  [-1.9, -0.7], [-1.7, -0.95], [2.3, -0.95], [2.9, -0.6]]; // metres ahead and left

function element(name, attributes = {}, parent = null) {
  const created = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  parent?.append(created);
  return created;
}

const number = (value) => +value.toFixed(3);
const point = (p) => `${number(p[0])} ${number(p[1])}`;
const polygonPath = (points) => (points.length ? `M${points.map(point).join("L")}Z` : "");
const linePath = (segments) => segments.map(([a, b]) => `M${point(a)}L${point(b)}`).join("");

// A group that stands for one object in one view; clicking finds it by its data attributes.
function objectGroup(object, isSelected, colorOf) {
  return element("g", {
    class: `object ${object.kind} ${object.outcome}${isSelected(object) ? " selected" : ""}`,
    "data-kind": object.kind,
    "data-index": object.index,
    style: `--c:${colorOf(object)}`,
  });
}

function drawCamera(svg, camera, objects, isSelected, colorOf) {
  const seen = [];
  for (const object of objects) {
    const shape = projectBox(camera, object.box);
    if (shape) seen.push({ object, shape });
  }
  const last = (object) => (isSelected(object) ? 1 : 0);
  seen.sort((a, b) => last(a.object) - last(b.object) || b.shape.depth - a.shape.depth);
  svg.replaceChildren(...seen.map(({ object, shape }) => {
    const group = objectGroup(object, isSelected, colorOf);
    element("path", { class: "hit", d: polygonPath(shape.outline) }, group);
    if (object.kind === "detection" || object.outcome === "alone") {
      element("path", { class: "face", d: polygonPath(shape.face) }, group);
    }
    const edges = linePath(shape.segments);
    element("path", { class: "halo", d: edges }, group);
    element("path", { class: "edges", d: edges }, group);
    return group;
  }));
  return seen;
}

// Writes labels near their boxes, important ones first, where they cover no other label.
function writeLabels(svg, camera, seen, textOf, isWanted) {
  const unit = camera.width / (svg.clientWidth || camera.width); // image pixels per CSS pixel
  const size = 11 * unit, taken = [];
  for (const { object, shape } of [...seen].reverse()) {
    if (!isWanted(object)) continue;
    const us = shape.outline.map((p) => p[0]), vs = shape.outline.map((p) => p[1]);
    const text = textOf(object), width = text.length * size * 0.56 + 8 * unit, height = 15 * unit;
    const u = Math.min(Math.max((Math.min(...us) + Math.max(...us) - width) / 2, 0),
      camera.width - width);
    const tops = [Math.min(...vs) - height - unit, Math.max(...vs) + unit];
    const spot = tops.map((v) => [u, v, u + width, v + height]).find((s) =>
      s[1] >= 0 && s[3] <= camera.height &&
      taken.every((t) => s[2] <= t[0] || s[0] >= t[2] || s[3] <= t[1] || s[1] >= t[3]));
    if (!spot) continue;
    taken.push(spot);
    const group = element("g", { class: "label", style: svg.querySelector(
      `[data-kind="${object.kind}"][data-index="${object.index}"]`).getAttribute("style") }, svg);
    element("rect", { x: spot[0], y: spot[1], width, height, rx: 3 * unit }, group);
    element("text", { x: u + width / 2, y: spot[1] + height * 0.72, "font-size": size }, group)
      .textContent = text;
  }
}

// Metres right of and behind the origin (the axes of the picture) of a point in ref.
function fromAbove(forward, p) {
  const cos = Math.cos(forward), sin = Math.sin(forward);
  return [p[0] * sin - p[1] * cos, -p[0] * cos - p[1] * sin];
}

function drawGround(svg, data, frame) {
  const reach = 100, ground = element("g", { class: "ground" });
  for (const camera of frame.cameras) {
    const start = multiply(invert(camera.camera_from_ref), [0, 0, 0]);
    const ends = viewBorders(camera).map((d) => [start[0] + reach * d[0], start[1] + reach * d[1]]);
    const corners = [start, ...ends].map((p) => fromAbove(data.forward, p));
    element("path", { class: "sector", d: polygonPath(corners), "data-camera": camera.name }, ground);
  }
  for (let r = RING_STEP; r <= reach; r += RING_STEP) {
    element("circle", { class: r % 50 ? "ring" : "ring major", r }, ground);
  }
  for (let r = 2 * RING_STEP; r <= reach; r += 2 * RING_STEP) {
    const text = element("text", { class: "metres", x: 0.42 * r, y: 0.91 * r }, ground);
    text.textContent = `${r} m`;
  }
  element("path", { class: "ego", d: polygonPath(EGO.map(([a, l]) => [-l, -a])) }, ground);
  svg.replaceChildren(ground);
}

function invert(matrix) {
  const rows = [0, 1, 2].map((i) => {
    const row = [0, 1, 2].map((j) => matrix[j][i]);
    return [...row, -row.reduce((sum, value, j) => sum + value * matrix[j][3], 0)];
  });
  return [...rows, [0, 0, 0, 1]];
}

function drawAbove(svg, data, objects, isSelected, colorOf) {
  svg.querySelectorAll(".object").forEach((old) => old.remove());
  const order = (o) => (isSelected(o) ? 2 : o.kind === "detection" ? 1 : 0);
  for (const object of [...objects].sort((a, b) => order(a) - order(b))) {
    const corners = boxCorners(object.box);
    const floor = [2, 3, 7, 6].map((i) => fromAbove(data.forward, corners[i]));
    const group = objectGroup(object, isSelected, colorOf);
    element("path", { class: "hit", d: polygonPath(floor) }, group);
    element("path", { class: "face", d: polygonPath(floor) }, group);
    const centre = middle(floor), front = middle(floor.slice(0, 2));
    const sides = floor.map((p, i) => [p, floor[(i + 1) % 4]]);
    const lines = linePath([...sides, [centre, front]]);
    element("path", { class: "halo", d: lines }, group);
    element("path", { class: "edges", d: lines }, group);
    element("path", { class: "front", d: linePath([floor.slice(0, 2)]) }, group);
    drawVelocity(group, data, object.box, centre);
    svg.append(group);
  }
}

function drawVelocity(group, data, box, centre) {
  if (box[7] === null || Math.hypot(box[7], box[8]) < 0.5) return;
  const tip = fromAbove(data.forward, [box[0] + box[7], box[1] + box[8]]); // a second later
  const along = [tip[0] - centre[0], tip[1] - centre[1]];
  const length = Math.hypot(...along), barb = Math.min(1.2, length / 2) / length;
  const back = [tip[0] - barb * along[0], tip[1] - barb * along[1]];
  const side = [(-barb * along[1]) / 2, (barb * along[0]) / 2];
  element("path", { class: "speed", d: linePath([[centre, tip]]) +
    linePath([[tip, [back[0] + side[0], back[1] + side[1]]],
      [tip, [back[0] - side[0], back[1] - side[1]]]]) }, group);
}

// Lidar points under the view from above; box is the SVG's viewBox [left, top, width, height].
function drawLidar(canvas, points, forward, box) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  if (!points) return;
  const scale = width / box[2], style = getComputedStyle(canvas);
  context.fillStyle = style.color;
  const cos = Math.cos(forward), sin = Math.sin(forward), dot = Math.max(1, ratio);
  for (let i = 0; i < points.length; i += 3) {
    const x = points[i] / 100, y = points[i + 1] / 100;
    context.fillRect((x * sin - y * cos - box[0]) * scale, (-x * cos - y * sin - box[1]) * scale,
      dot, dot);
  }
}
