// What is known about the selected box, as a table, and how a box is named in a label.

const OUTCOMES = {
  found: "true positive", false: "false positive", missed: "missed object",
  matched: "object that was found", unjudged: "beyond the judged range", alone: "",
};

const readable = (name) => name.replaceAll("_", " ");

function labelText(data, object) {
  const name = readable(data.classes[object.label].name);
  return object.score === undefined ? name : `${name} ${object.score.toFixed(2)}`;
}

function describe(data, frame, object) {
  const [x, y, z, length, width, height, yaw, vx, vy] = object.box;
  const [right, behind] = fromAbove(data.forward, [x, y]);
  const side = right < 0 ? "left" : "right";
  const degrees = (((yaw - data.forward) * 180) / Math.PI + 540) % 360 - 180;
  const away = Math.hypot(x - frame.origin[0], y - frame.origin[1]);
  const rows = [
    ["ahead", `${(-behind).toFixed(2)} m`],
    [side, `${Math.abs(right).toFixed(2)} m`],
    ["above ref", `${z.toFixed(2)} m`],
    ["from the vehicle", `${away.toFixed(1)} m`],
    ["length × width × height", `${length.toFixed(2)} × ${width.toFixed(2)} × ${height.toFixed(2)} m`],
    ["heading", `${Math.abs(degrees).toFixed(1)}° ${degrees < 0 ? "right" : "left"}`],
    ["speed", vx === null ? "unknown" : `${Math.hypot(vx, vy).toFixed(2)} m/s`],
  ];
  if (object.score !== undefined) rows.unshift(["score", object.score.toFixed(3)]);
  if (object.track !== undefined) rows.push(["track", object.track]);
  if (object.partner < 0) return rows;
  const isTruth = object.kind === "truth";
  const found = isTruth ? frame.detections.boxes[object.partner] : object.box;
  const truth = isTruth ? object.box : frame.ground_truth.boxes[object.partner];
  const errors = pairErrors(found, truth, frame, data.classes[object.label].name);
  return [
    ...rows,
    ["translation error", `${errors.translation.toFixed(2)} m`, "gap"],
    ["scale error", errors.scale.toFixed(2)],
    ["orientation error", `${((errors.orientation * 180) / Math.PI).toFixed(1)}°`],
    ["velocity error", errors.velocity === null ? "unknown" : `${errors.velocity.toFixed(2)} m/s`],
  ];
}

function showDetails(panel, data, frame, object, color) {
  panel.replaceChildren();
  const heading = document.createElement("h2");
  if (!object) {
    heading.textContent = "No box selected";
    const hint = document.createElement("p");
    hint.textContent = "Click a box in any view, or press n.";
    panel.append(heading, hint);
    return;
  }
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.setProperty("--c", color);
  heading.append(swatch, readable(data.classes[object.label].name));
  const what = document.createElement("p");
  const number = `${object.kind === "detection" ? "box" : "object"} ${object.index}`;
  what.textContent = [number, OUTCOMES[object.outcome]].filter(Boolean).join(" · ");
  const table = document.createElement("table");
  for (const [name, value, kind] of describe(data, frame, object)) {
    const row = table.insertRow();
    if (kind) row.className = kind;
    const head = document.createElement("th");
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = value;
  }
  panel.append(heading, what, table);
}
