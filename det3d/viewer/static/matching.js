// Which detection found which object, as in det3d.results.matching (the nuScenes detection task):
// class by class, best score first, each detection takes the nearest free object within a distance.

function onGround(frame, box) {
  return multiply(frame.global_from_ref, box).slice(0, 2);
}

function isJudged(data, frame, label, place) {
  const range = data.classes[label].range;
  return range === null || Math.hypot(place[0] - frame.ego[0], place[1] - frame.ego[1]) < range;
}

// {truth: row of the object or -1 per detection, detection: likewise per object,
//  judgedDetections, judgedTruth}; detections come best first.
function matchFrame(data, frame, distance) {
  const found = frame.detections, truth = frame.ground_truth;
  const foundPlaces = found.boxes.map((box) => onGround(frame, box));
  const truthPlaces = truth.boxes.map((box) => onGround(frame, box));
  const judged = (objects, places) =>
    objects.labels.map((label, i) => isJudged(data, frame, label, places[i]));
  const judgedDetections = judged(found, foundPlaces), judgedTruth = judged(truth, truthPlaces);
  const truthOf = found.labels.map(() => -1), detectionOf = truth.labels.map(() => -1);
  found.labels.forEach((label, i) => {
    if (!judgedDetections[i]) return;
    let nearest = -1, least = distance;
    truth.labels.forEach((other, j) => {
      if (other !== label || detectionOf[j] >= 0 || !judgedTruth[j]) return;
      const apart = Math.hypot(
        foundPlaces[i][0] - truthPlaces[j][0], foundPlaces[i][1] - truthPlaces[j][1],
      );
      if (apart < least) [nearest, least] = [j, apart];
    });
    if (nearest >= 0) [truthOf[i], detectionOf[nearest]] = [nearest, i];
  });
  return { truth: truthOf, detection: detectionOf, judgedDetections, judgedTruth };
}

// The objects of a frame that pass the filters, each with its outcome: found (true positive), false,
// matched (object that was found), missed, unjudged, or alone where there is nothing to compare.
// A better detection never loses its match to a worse one, so that the score only hides.
function visibleObjects(data, frame, matches, filter) {
  const keeps = (objects, i) => {
    const [x, y] = objects.boxes[i];
    const away = Math.hypot(x - frame.origin[0], y - frame.origin[1]);
    return !filter.hidden.has(objects.labels[i]) && away <= filter.range;
  };
  const list = [];
  frame.ground_truth.labels.forEach((label, i) => {
    if (!keeps(frame.ground_truth, i)) return;
    const finder = matches.detection[i];
    const isFound = finder >= 0 && frame.detections.scores[finder] >= filter.score;
    const outcome = !data.compares ? "alone" : !matches.judgedTruth[i] ? "unjudged" : isFound ? "matched" : "missed";
    list.push({ kind: "truth", index: i, label, outcome, box: frame.ground_truth.boxes[i],
      partner: isFound ? finder : -1, track: frame.ground_truth.tracks?.[i] });
  });
  frame.detections.labels.forEach((label, i) => {
    const score = frame.detections.scores[i];
    if (score < filter.score || !keeps(frame.detections, i)) return;
    const isFound = matches.truth[i] >= 0;
    const outcome = !data.compares ? "alone" : !matches.judgedDetections[i] ? "unjudged" : isFound ? "found" : "false";
    list.push({ kind: "detection", index: i, label, outcome, box: frame.detections.boxes[i],
      score, partner: matches.truth[i], track: frame.detections.tracks?.[i] });
  });
  return list;
}

// The devkit's true-positive errors of a detection and its object.
function pairErrors(found, truth, frame, label) {
  const apart = onGround(frame, found).map((v, i) => v - onGround(frame, truth)[i]);
  const common = [3, 4, 5].reduce((p, i) => p * Math.min(found[i], truth[i]), 1);
  const volume = (box) => box[3] * box[4] * box[5];
  const period = label === "barrier" ? Math.PI : 2 * Math.PI;
  const turn = ((found[6] - truth[6]) % period + 1.5 * period) % period - 0.5 * period;
  const known = truth[7] !== null && found[7] !== null;
  return {
    translation: Math.hypot(...apart),
    scale: 1 - common / (volume(found) + volume(truth) - common),
    orientation: Math.abs(turn),
    velocity: known ? Math.hypot(found[7] - truth[7], found[8] - truth[8]) : null,
  };
}
