// State and controls of the page.

const data = readData();
const $$ = (id) => document.getElementById(id);
const farthest = farthestObject(data);
const filter = { score: data.score, range: farthest, distance: 2, hidden: new Set() };
const shown = new Set(["found", "false", "missed", "matched", "unjudged", "alone"]);
const state = {
  frame: 0, selected: null, colour: data.compares ? "outcome" : "class", playing: null, labels: false,
  lidar: true, zoom: { centre: [0, -6], metres: 84 }, enlarged: -1, objects: [], turn: 0,
};
const above = $$("above").querySelector("svg"), canvas = $$("above").querySelector("canvas");
const figures = [];

const same = (a, b) => a && b && a.kind === b.kind && a.index === b.index;
const isSelected = (object) => same(object, state.selected) || isPartner(object);
const isPartner = (object) => state.selected !== null && state.selected.partner >= 0 &&
  object.kind !== state.selected.kind && object.index === state.selected.partner;
const colorOf = (object) => state.colour === "class" || object.outcome === "alone"
  ? data.classes[object.label].color : `var(--${object.outcome})`;

// --- drawing ---------------------------------------------------------------------------------

const remembered = new Map();
function matchesOf(frame) {
  const key = `${frame.index} ${filter.distance}`;
  if (!remembered.has(key)) remembered.set(key, matchFrame(data, frame, filter.distance));
  return remembered.get(key);
}

function objectsOf(frame) {
  return visibleObjects(data, frame, matchesOf(frame), filter);
}

function draw() {
  const frame = data.frames[state.frame];
  const all = objectsOf(frame);
  state.objects = all.filter((object) => shown.has(object.outcome));
  state.selected = state.objects.find((object) => same(object, state.selected)) ?? null;
  for (const { svg, name } of figures) {
    const camera = frame.cameras.find((c) => c.name === name);
    if (!camera) {
      svg.replaceChildren();
      continue;
    }
    const seen = drawCamera(svg, camera, state.objects, isSelected, colorOf);
    const isLarge = state.labels || state.enlarged >= 0;
    writeLabels(svg, camera, seen, (o) => labelText(data, o),
      (o) => isSelected(o) || (isLarge && o.outcome !== "matched"));
  }
  drawAbove(above, data, state.objects, isSelected, colorOf);
  const color = state.selected ? colorOf(state.selected) : "";
  showDetails($$("details"), data, frame, state.selected, color);
  showCounts(all);
}

function showCounts(objects) {
  const counts = {};
  for (const { outcome } of objects) counts[outcome] = (counts[outcome] ?? 0) + 1;
  $$("legend").querySelectorAll("b").forEach((b) => (b.textContent = counts[b.dataset.outcome] ?? 0));
}

// The bars above the time slider: what was found, false and missed in every frame.
function drawHistory() {
  const svg = $$("history"), parts = [];
  const counts = data.frames.map((frame) => {
    const outcomes = objectsOf(frame).map((object) => object.outcome);
    const names = data.compares ? ["found", "false", "missed"] : ["alone"];
    return names.map((name) => [name, outcomes.filter((o) => o === name).length]);
  });
  const most = Math.max(1, ...counts.map((c) => c.reduce((sum, [, n]) => sum + n, 0)));
  svg.setAttribute("viewBox", `0 0 ${data.frames.length} ${most}`);
  let scene = 0;
  counts.forEach((bars, i) => {
    if (i && data.frames[i].scene !== data.frames[i - 1].scene) scene += 1;
    parts.push(element("rect", { class: `scene ${scene % 2 ? "odd" : ""}`, x: i, y: 0, width: 1, height: most }));
    let top = most;
    for (const [name, count] of bars) {
      top -= count;
      const fill = name === "alone" ? "var(--matched)" : `var(--${name})`;
      parts.push(element("rect", { x: i + 0.1, y: top, width: 0.8, height: count, style: `fill:${fill}` }));
    }
  });
  svg.replaceChildren(...parts);
}

function drawBase() {
  const frame = data.frames[state.frame];
  drawGround(above, data, frame);
  applyZoom();
}

function applyZoom() {
  const { centre, metres } = state.zoom;
  const { clientWidth: width, clientHeight: height } = above;
  const unit = metres / Math.min(width, height); // metres a pixel
  state.viewBox = [centre[0] - (unit * width) / 2, centre[1] - (unit * height) / 2,
    unit * width, unit * height];
  above.setAttribute("viewBox", state.viewBox.join(" "));
  above.style.setProperty("--unit", unit);
  const points = state.lidar ? lidarPoints(data.frames[state.frame]) : null;
  drawLidar(canvas, points, data.forward, state.viewBox);
}

// --- frames ----------------------------------------------------------------------------------

const loaded = new Map(); // images by frame, the latest few
function load(index) {
  if (loaded.has(index)) return loaded.get(index);
  const frame = data.frames[index];
  const images = frame.cameras.map((camera) => imageElement(frame, camera));
  const ready = Promise.all(images.map((image) => image.decode().catch(() => {}))).then(() => images);
  loaded.set(index, ready);
  if (loaded.size > 12) loaded.delete(loaded.keys().next().value);
  return ready;
}

async function go(index) {
  index = Math.min(Math.max(index, 0), data.frames.length - 1);
  const turn = ++state.turn;
  const images = await load(index);
  if (turn !== state.turn) return; // a later wish came first
  const before = data.frames[state.frame], frame = data.frames[index];
  const track = state.selected?.track;
  if (index !== state.frame) state.selected = null;
  state.frame = index;
  for (const { figure, svg, name } of figures) {
    const i = frame.cameras.findIndex((camera) => camera.name === name);
    figure.querySelector("img")?.remove();
    if (i < 0) continue;
    svg.setAttribute("viewBox", `0 0 ${frame.cameras[i].width} ${frame.cameras[i].height}`);
    figure.prepend(images[i]);
  }
  if (track !== undefined && index !== before.index) {
    state.selected = objectsOf(frame).find((object) => object.track === track) ?? null;
  }
  drawBase();
  draw();
  const seconds = (frame.time - data.frames.find((f) => f.scene === frame.scene).time).toFixed(1);
  $$("time").value = index;
  $$("clock").textContent = `${index + 1} / ${data.frames.length} · ${seconds} s`;
  $$("place").textContent = [frame.scene, frame.token].filter(Boolean).join(" · ");
  document.documentElement.dataset.frame = index;
  if (index + 1 < data.frames.length) load(index + 1);
}

function play() {
  if (state.playing !== null) {
    clearTimeout(state.playing);
    state.playing = null;
  } else {
    const step = async () => {
      const started = performance.now();
      await go((state.frame + 1) % data.frames.length);
      if (state.playing !== null) {
        state.playing = setTimeout(step, Math.max(0, 500 / data.speed - performance.now() + started));
      }
    };
    state.playing = setTimeout(step, 0);
  }
  $$("play").textContent = state.playing === null ? "▶" : "❚❚";
}

// --- selection -------------------------------------------------------------------------------

function select(object) {
  state.selected = object;
  draw();
}

function selectNext(step) {
  const detections = state.objects.filter((object) => object.kind === "detection");
  const missed = state.objects.filter((object) => ["missed", "alone"].includes(object.outcome));
  const wanted = [...detections, ...missed.filter((object) => object.kind === "truth")];
  if (!wanted.length) return;
  const now = wanted.findIndex((object) => same(object, state.selected));
  select(wanted[(now + step + wanted.length) % wanted.length]);
}

function clicked(event) {
  const group = event.target.closest(".object");
  if (!group) return select(null);
  const key = { kind: group.dataset.kind, index: Number(group.dataset.index) };
  select(state.objects.find((object) => same(object, key)) ?? null);
}

// --- controls --------------------------------------------------------------------------------

function buildCameras() {
  for (const names of data.rows) {
    const row = document.createElement("div");
    row.className = "row";
    for (const name of names) {
      const camera = data.frames.flatMap((f) => f.cameras).find((c) => c.name === name);
      const figure = document.createElement("figure");
      figure.style.aspectRatio = `${camera.width} / ${camera.height}`;
      figure.dataset.camera = name;
      const svg = element("svg", { viewBox: `0 0 ${camera.width} ${camera.height}` });
      const caption = document.createElement("figcaption");
      caption.textContent = camera.title;
      figure.append(svg, caption);
      svg.addEventListener("click", clicked);
      const index = figures.length;
      figure.addEventListener("dblclick", () => enlarge(state.enlarged === index ? -1 : index));
      figure.addEventListener("pointerenter", () => light(name));
      figure.addEventListener("pointerleave", () => light(null));
      row.append(figure);
      figures.push({ figure, svg, name, row });
    }
    $$("cameras").append(row);
  }
}

function enlarge(index) {
  state.enlarged = index;
  $$("cameras").classList.toggle("one", index >= 0);
  figures.forEach(({ figure, row }, i) => {
    figure.classList.toggle("chosen", i === index);
    row.classList.toggle("chosen", index >= 0 && row === figures[index].row);
  });
  draw();
}

function light(name) {
  above.querySelectorAll(".sector").forEach((sector) =>
    sector.classList.toggle("lit", sector.dataset.camera === name));
}

function chip(text, color, isPressed, toggle) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.style.setProperty("--c", color);
  button.setAttribute("aria-pressed", isPressed);
  button.append(text);
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
    toggle();
    refresh();
  });
  return button;
}

function buildLegend() {
  const entries = data.compares
    ? [["found", "true positive"], ["false", "false positive"], ["missed", "missed"], ["matched", "found object"]]
    : [["alone", "boxes"]];
  for (const [outcome, text] of entries) {
    const color = outcome === "alone" ? "var(--matched)" : `var(--${outcome})`;
    const button = chip(`${text} `, color, true, () =>
      shown.has(outcome) ? shown.delete(outcome) : shown.add(outcome));
    button.dataset.outcome = outcome;
    button.classList.toggle("dashed", outcome === "missed" || outcome === "matched");
    const count = document.createElement("b");
    count.dataset.outcome = outcome;
    button.append(count);
    $$("legend").append(button);
  }
}

function buildClasses() {
  const used = new Set(data.frames.flatMap((f) => [...f.detections.labels, ...f.ground_truth.labels]));
  data.classes.forEach(({ name, color }, label) => {
    if (!used.has(label)) return;
    const button = chip(readable(name), color, true, () =>
      filter.hidden.has(label) ? filter.hidden.delete(label) : filter.hidden.add(label));
    button.dataset.label = label;
    $$("classes").append(button);
  });
}

function refresh() {
  $$("score").value = filter.score;
  $$("score-text").textContent = filter.score.toFixed(2);
  $$("range-text").textContent = `${filter.range} m`;
  $$("colour").value = state.colour;
  $$("labels").checked = state.labels;
  draw();
  drawHistory();
}

function setScore(value) {
  filter.score = Math.min(Math.max(Math.round(100 * value) / 100, 0), 1);
  refresh();
}

function zoom(factor, around = state.zoom.centre) {
  const metres = Math.min(Math.max(state.zoom.metres * factor, 8), 240);
  const ratio = metres / state.zoom.metres;
  state.zoom = { metres, centre: around.map((c, i) => c + ratio * (state.zoom.centre[i] - c)) };
  applyZoom();
}

function goHome() {
  state.zoom = { centre: [0, -6], metres: 84 };
  applyZoom();
}

function atPointer(event) {
  const place = above.getBoundingClientRect(), [left, top, width, height] = state.viewBox;
  return [left + (width * (event.clientX - place.left)) / place.width,
    top + (height * (event.clientY - place.top)) / place.height];
}

// Drag with one pointer to move, pinch with two to zoom.
function listenAbove() {
  const held = new Map();
  let moved = 0;
  const spread = () => {
    const [a, b] = [...held.values()];
    return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  };
  above.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, event);
    moved = 0;
  });
  above.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const unit = state.viewBox[2] / above.clientWidth;
    const step = [event.clientX - last.clientX, event.clientY - last.clientY];
    moved += Math.hypot(...step);
    if (moved > 4 && held.size === 1) {
      above.setPointerCapture(event.pointerId);
      state.zoom.centre = state.zoom.centre.map((c, i) => c - unit * step[i]);
      applyZoom();
    }
    const before = held.size === 2 ? spread() : 0;
    held.set(event.pointerId, event);
    if (held.size === 2) zoom(before / spread());
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
    above.addEventListener(name, (event) => held.delete(event.pointerId));
  }
  above.addEventListener("click", (event) => moved < 5 && clicked(event));
  above.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY * 0.0015), atPointer(event));
  }, { passive: false });
}

function toggleTheme() {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  applyZoom();
}

const press = (selector) => document.querySelector(selector)?.click();
const KEYS = {
  " ": play, ArrowLeft: () => go(state.frame - 1), ArrowRight: () => go(state.frame + 1),
  Home: () => go(0), End: () => go(data.frames.length - 1),
  "[": () => setScore(filter.score - 0.05), "]": () => setScore(filter.score + 0.05),
  n: () => selectNext(1), p: () => selectNext(-1), Escape: () => select(null),
  g: () => press('[data-outcome="matched"]'), t: () => press('[data-outcome="found"]'),
  f: () => press('[data-outcome="false"]'), m: () => press('[data-outcome="missed"]'),
  c: () => { state.colour = state.colour === "class" ? "outcome" : "class"; refresh(); },
  l: () => { state.labels = !state.labels; refresh(); },
  e: () => enlarge(state.enlarged + 1 < figures.length ? state.enlarged + 1 : -1),
  "+": () => zoom(0.8), "-": () => zoom(1.25), h: goHome, d: toggleTheme,
  "?": () => $$("help").showModal(),
};
for (let i = 1; i <= 10; i++) KEYS[i % 10] = () => press(`[data-label="${i - 1}"]`);

function listen() {
  $$("score").addEventListener("input", (event) => setScore(Number(event.target.value)));
  $$("range").addEventListener("input", (event) => { filter.range = Number(event.target.value); refresh(); });
  $$("distance").addEventListener("change", (event) => { filter.distance = Number(event.target.value); refresh(); });
  $$("colour").addEventListener("change", (event) => { state.colour = event.target.value; refresh(); });
  $$("labels").addEventListener("change", (event) => { state.labels = event.target.checked; refresh(); });
  $$("lidar").addEventListener("change", (event) => { state.lidar = event.target.checked; applyZoom(); });
  $$("time").addEventListener("input", (event) => go(Number(event.target.value)));
  const actions = {
    back: KEYS.ArrowLeft, next: KEYS.ArrowRight, play, theme: toggleTheme, "zoom-in": KEYS["+"],
    "zoom-out": KEYS["-"], "zoom-home": goHome, "help-button": KEYS["?"],
    "help-close": () => $$("help").close(),
  };
  for (const [id, action] of Object.entries(actions)) $$(id).addEventListener("click", () => action());
  document.addEventListener("keydown", (event) => {
    const isTyped = ["SELECT", "DIALOG"].includes(event.target.tagName);
    const action = KEYS[event.key];
    if (!action || isTyped || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (event.target.tagName === "BUTTON") event.target.blur();
    action();
  });
  new ResizeObserver(() => { applyZoom(); draw(); }).observe($$("above"));
}

function start() {
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = prefersDark ? "dark" : "light";
  $$("title").textContent = data.title;
  $$("time").max = data.frames.length - 1;
  $$("range").max = farthest;
  $$("range").value = farthest;
  $$("distance").value = String(filter.distance);
  document.querySelectorAll(".compare").forEach((part) => (part.hidden = !data.compares));
  document.querySelector(".scored").hidden = !data.frames.some((f) => f.detections.labels.length);
  document.querySelector("footer").hidden = data.frames.length < 2;
  document.querySelector(".lidar").hidden = !document.getElementById("lidar-0");
  buildCameras();
  buildLegend();
  buildClasses();
  listenAbove();
  go(0).then(() => {
    refresh();
    listen();
    document.documentElement.dataset.ready = "true";
  });
}

start();
