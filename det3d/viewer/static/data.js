// Reads what is embedded in the page: numbers as JSON, images and lidar points on demand.

function readData() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const nothing = () => ({ boxes: [], labels: [], scores: [] });
  data.compares = ["detections", "ground_truth"].every((name) => data.frames.some((f) => f[name]));
  data.frames.forEach((frame, i) => {
    frame.index = i;
    frame.detections ??= nothing();
    frame.ground_truth ??= nothing();
    frame.origin = frame.ref_from_ego.slice(0, 3).map((row) => row[3]); // of the vehicle, in ref
    frame.ego = onGround(frame, frame.origin); // and in the global frame
  });
  return data;
}

// Whole metres from the vehicle to the farthest box of all frames, at least 30.
function farthestObject(data) {
  const distances = data.frames.flatMap((frame) =>
    [...frame.detections.boxes, ...frame.ground_truth.boxes].map(([x, y]) =>
      Math.hypot(x - frame.origin[0], y - frame.origin[1])));
  return Math.ceil(distances.reduce((most, distance) => Math.max(most, distance), 30));
}

function imageElement(frame, camera) {
  const image = new Image();
  const source = document.getElementById(`image-${frame.index}-${camera.slot}`);
  image.alt = camera.name;
  image.draggable = false;
  image.src = `data:${source.dataset.type};base64,${source.textContent}`;
  return image;
}

// Centimetres x, y, z of each point, or null.
function lidarPoints(frame) {
  const source = document.getElementById(`lidar-${frame.index}`);
  if (!source) return null;
  const bytes = Uint8Array.from(atob(source.textContent), (letter) => letter.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}
