// Boxes and pinhole cameras, in the conventions of det3d.boxes and det3d.cameras. Points are
// [x, y, z] in metres, pixels [u, v] with (0, 0) at the corner of the first pixel, matrices rows.

const CORNER_SIGNS = [
  [1, 1, 1], [1, -1, 1], [1, -1, -1], [1, 1, -1],
  [-1, 1, 1], [-1, -1, 1], [-1, -1, -1], [-1, 1, -1],
];
const CORNER_EDGES = [
  [0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7],
];
const NEAR = 0.1; // metres; what is nearer is cut off
const MARGIN = 3; // pixels that lines run on beyond the image

function boxCorners([x, y, z, length, width, height, yaw]) {
  const cos = Math.cos(yaw), sin = Math.sin(yaw);
  return CORNER_SIGNS.map(([a, b, c]) => {
    const along = (a * length) / 2, across = (b * width) / 2;
    return [x + cos * along - sin * across, y + sin * along + cos * across, z + (c * height) / 2];
  });
}

function multiply(matrix, point) {
  return matrix.slice(0, 3).map(
    (row) => row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + (row[3] ?? 0),
  );
}

function middle(points) {
  return points[0].map((_, i) => points.reduce((sum, p) => sum + p[i], 0) / points.length);
}

// A ray is [u * depth, v * depth, depth]: planes of sight are linear in it, so that boxes that
// are partly behind the camera are cut before the division.
function toRay(camera, point) {
  return multiply(camera.intrinsics, multiply(camera.camera_from_ref, point));
}

function toPixel(ray) {
  return [ray[0] / ray[2], ray[1] / ray[2]];
}

function viewPlanes(camera, margin) {
  return [
    [0, 0, 1, -NEAR],
    [1, 0, margin, 0],
    [-1, 0, camera.width + margin, 0],
    [0, 1, margin, 0],
    [0, -1, camera.height + margin, 0],
  ];
}

function inside(plane, ray) {
  return plane[0] * ray[0] + plane[1] * ray[1] + plane[2] * ray[2] + plane[3];
}

function between(a, b, fraction) {
  return a.map((value, i) => value + fraction * (b[i] - value));
}

function clipSegment(start, end, planes) {
  let enter = 0, leave = 1;
  for (const plane of planes) {
    const first = inside(plane, start), second = inside(plane, end);
    if (first < 0 && second < 0) return null;
    if (first < 0) enter = Math.max(enter, first / (first - second));
    if (second < 0) leave = Math.min(leave, first / (first - second));
  }
  if (enter >= leave) return null;
  return [toPixel(between(start, end, enter)), toPixel(between(start, end, leave))];
}

function clipPolygon(rays, planes) {
  for (const plane of planes) {
    const kept = [];
    rays.forEach((ray, i) => {
      const last = rays[(i + rays.length - 1) % rays.length];
      const here = inside(plane, ray), before = inside(plane, last);
      if (here < 0 !== before < 0) kept.push(between(last, ray, before / (before - here)));
      if (here >= 0) kept.push(ray);
    });
    if (kept.length < 3) return [];
    rays = kept;
  }
  return rays.map(toPixel);
}

// The convex outline of pixels (Andrew's monotone chain), to be clicked at.
function convexHull(pixels) {
  const sorted = [...pixels].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const turn = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
  const chain = (points) => {
    const hull = [];
    for (const point of points) {
      while (hull.length > 1 && turn(hull.at(-2), hull.at(-1), point) <= 0) hull.pop();
      hull.push(point);
    }
    return hull.slice(0, -1);
  };
  return [...chain(sorted), ...chain(sorted.reverse())];
}

// What a camera shows of a box: its front face, its edges with a line over the floor to the front,
// its outline and its depth; null if it is out of sight.
function projectBox(camera, box) {
  const corners = boxCorners(box);
  const rays = corners.map((corner) => toRay(camera, corner));
  const depth = rays.reduce((sum, ray) => sum + ray[2], 0) / 8;
  if (rays.every((ray) => ray[2] < NEAR)) return null;
  const planes = viewPlanes(camera, MARGIN);
  const lines = CORNER_EDGES.map(([a, b]) => [rays[a], rays[b]]);
  lines.push([middle([rays[2], rays[3], rays[6], rays[7]]), middle([rays[2], rays[3]])]);
  const segments = lines.map(([a, b]) => clipSegment(a, b, planes)).filter((s) => s !== null);
  if (!segments.length) return null;
  const face = clipPolygon(rays.slice(0, 4), planes);
  return { segments, face, outline: convexHull(segments.flat()), depth };
}

// Where a camera looks: unit directions of its left and right image border, in ref.
function viewBorders(camera) {
  const [[fx, , cx]] = camera.intrinsics;
  const rotation = camera.camera_from_ref;
  return [0, camera.width].map((u) => {
    const direction = [(u - cx) / fx, 0, 1];
    const inRef = [0, 1, 2].map((j) => direction.reduce((s, d, i) => s + d * rotation[i][j], 0));
    const length = Math.hypot(inRef[0], inRef[1]);
    return [inRef[0] / length, inRef[1] / length];
  });
}
