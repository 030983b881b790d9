// Faces in a picture that the user drops, by the exported files of nnface and ONNX Runtime compiled to WebAssembly.
// Everything about a network is read from the Spec in its file; see src/nnface/spec.py for what its fields mean.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need a server that isolates the page with COOP and COEP headers

const LONGEST = 4096; // of the canvas, in pixels; larger pictures are shown and searched reduced
const LIMITS = [0.2, 0.2, 0.3, 0.2]; // of a correction of a chip: sides, sides, logarithm of the side, radians
const PALETTE = [
  [0, 0, 0], [255, 200, 160], [240, 130, 40], [70, 240, 240], [30, 80, 220], [60, 200, 90], [0, 0, 130], [0, 110, 60],
  [170, 110, 240], [110, 30, 150], [255, 255, 255], [240, 50, 90], [150, 0, 30], [150, 90, 40], [255, 225, 25],
  [240, 50, 230], [190, 255, 60], [130, 140, 90], [130, 160, 190],
];

const element = (id) => document.getElementById(id);
const say = (text) => { element("status").textContent = text; };

/** A model file: its session and its Spec. */
async function open(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} is not on the server; make browser puts it there`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return { spec: specOf(bytes), session: await ort.InferenceSession.create(bytes) };
}

/** The Spec in an ONNX file: of the protobuf's fields with number 14 (metadata) the one whose key is "nnface". */
function specOf(bytes) {
  const text = new TextDecoder();
  for (const [number, entry] of fields(bytes)) {
    if (number !== 14) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    if (text.decode(key) === "nnface") return JSON.parse(text.decode(value));
  }
  throw new Error("the model file has no nnface metadata; use one that nnface export wrote");
}

function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[place++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127);
    return value;
  };
  while (place < bytes.length) {
    const key = varint(), kind = key & 7;
    if (kind === 0) varint();
    else {
      const length = kind === 2 ? varint() : kind === 1 ? 8 : 4;
      yield [key >>> 3, bytes.subarray(place, place + length)];
      place += length;
    }
  }
}

/** Part of a picture as a network's input. `transform` [a, b, c, d, e, f] takes the picture's pixels there. */
function input(picture, transform, width, height, plan) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.setTransform(...transform);
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Float32Array(3 * width * height);
  for (let channel = 0; channel < 3; channel++) {
    const from = plan.color === "bgr" ? 2 - channel : channel, mean = plan.mean[channel], std = plan.std[channel];
    for (let i = 0; i < width * height; i++) {
      // Where there is no picture (alpha 0), the padding of a detector is the mean and that of a chip black.
      const padding = plan.fit === "letterbox" && data[4 * i + 3] === 0;
      values[channel * width * height + i] = padding ? 0 : (data[4 * i + from] - mean) / std;
    }
  }
  return new ort.Tensor("float32", values, [1, 3, height, width]);
}

/** The faces of a picture, best first: box [x1, y1, x2, y2], score, landmarks [[x, y], ...], in its pixels. */
async function detect({ session, spec }, picture) {
  const plan = spec.input, coding = spec.detection;
  let scaleX = plan.size / Math.max(picture.width, picture.height), scaleY = scaleX;
  let width, height;
  if (plan.width) {
    [width, height] = [plan.width, plan.height];
    [scaleX, scaleY] = [width / picture.width, height / picture.height];
    if (plan.fit === "letterbox") scaleX = scaleY = Math.min(scaleX, scaleY);
  } else {
    [width, height] = [picture.width, picture.height].map(
      (side) => Math.ceil(Math.max(1, Math.round(side * scaleX)) / plan.multiple) * plan.multiple);
  }
  const outputs = await session.run({ input: input(picture, [scaleX, 0, 0, scaleY, 0, 0], width, height, plan) });
  const { scores, boxes, landmarks } = Object.fromEntries(Object.entries(outputs).map(([k, v]) => [k, v.data]));
  const found = [];
  let anchor = 0;
  for (const [level, stride] of coding.strides.entries()) {
    const rows = Math.ceil(height / stride), columns = Math.ceil(width / stride);
    const sizes = coding.anchor_sizes[level] ?? [stride];
    const stepX = coding.clip_anchors ? width / columns : stride;
    const stepY = coding.clip_anchors ? height / rows : stride;
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) for (const size of sizes) {
      const i = anchor++;
      if (!(scores[i] >= coding.min_score)) continue;
      const w = coding.clip_anchors ? Math.min(size, width) : size, h = coding.clip_anchors ? Math.min(size, height) : size;
      const x = (column + 0.5) * stepX, y = (row + 0.5) * stepY, d = boxes.subarray(4 * i, 4 * i + 4);
      const [v0, v1] = coding.coding === "ssd" ? coding.variances : [1, 1];
      let box;
      if (coding.coding === "ssd") {
        const cx = x + d[0] * v0 * w, cy = y + d[1] * v0 * h;
        const halfX = w * Math.exp(d[2] * v1) / 2, halfY = h * Math.exp(d[3] * v1) / 2;
        box = [cx - halfX, cy - halfY, cx + halfX, cy + halfY];
      } else box = [x - d[0] * w, y - d[1] * h, x + d[2] * w, y + d[3] * h];
      const points = [];
      for (let k = 0; coding.landmarks && k < 10; k += 2) {
        points.push([(x + landmarks[10 * i + k] * v0 * w) / scaleX, (y + landmarks[10 * i + k + 1] * v0 * h) / scaleY]);
      }
      box = [box[0] / scaleX, box[1] / scaleY, box[2] / scaleX, box[3] / scaleY];
      found.push({ score: scores[i], box, landmarks: points });
    }
  }
  found.sort((a, b) => b.score - a.score);
  const kept = [];
  for (const face of found) {
    if (kept.length < 750 && kept.every((other) => overlap(face.box, other.box) <= coding.nms_iou)) kept.push(face);
  }
  return kept;
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return width * height / (area(a) + area(b) - width * height);
}

/** The transform from the picture to a face's chip, as src/nnface/predict/chips.py has it. */
function chipOf(face, plan, size) {
  const aligned = plan && face.landmarks.length ? chipOfLandmarks(face, plan, size) : null;
  if (!aligned) return chipOfBox(face.box, plan?.margin ?? 0.25, size);
  return plan.correction?.length ? corrected(aligned, face, plan.correction, size) : aligned;
}

/** The chip moved, enlarged and turned by how the face lies in it, as src/nnface/geometry/align.py has it. */
function corrected([a, b, , , e, f], { landmarks, box: [x1, y1, x2, y2] }, rows, size) {
  const points = [...landmarks, [(x1 + x2) / 2, (y1 + y2) / 2]];
  const middles = points.flatMap(([x, y]) => [(a * x - b * y + e) / size - 0.5, (b * x + a * y + f) / size - 0.5]);
  const scale = Math.hypot(a, b) / size;
  const values = [...middles, Math.log((x2 - x1) * scale), Math.log((y2 - y1) * scale), 1];
  const [x, y, growth, turn] = rows.map((row, i) => {
    const sum = row.reduce((total, weight, k) => total + weight * values[k], 0);
    return Math.max(-LIMITS[i], Math.min(LIMITS[i], sum));
  });
  const [p, q] = [Math.cos(turn) * Math.exp(-growth), Math.sin(turn) * Math.exp(-growth)];
  const place = ([u, v]) => [p * u - q * v, q * u + p * v];
  const [turned, middle] = [place([a, b]), place([e - size * (x + 0.5), f - size * (y + 0.5)])];
  return [...turned, -turned[1], turned[0], middle[0] + size / 2, middle[1] + size / 2];
}

/** By five landmarks: the similarity that brings them closest to the plan's; null where they lie in one place. */
function chipOfLandmarks(face, plan, size) {
  const target = plan.points.map(([x, y]) => [x * size, y * size]);
  const mean = (points) => [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  const [sx, sy] = mean(face.landmarks), [tx, ty] = mean(target);
  let a = 0, b = 0, spread = 0;
  face.landmarks.forEach(([x, y], i) => {
    const [u, v] = [x - sx, y - sy], [p, q] = [target[i][0] - tx, target[i][1] - ty];
    a += u * p + v * q;
    b += u * q - v * p;
    spread += u * u + v * v;
  });
  if (!(spread > 0)) return null;
  [a, b] = [a / spread, b / spread];
  return [a, b, -b, a, tx - a * sx + b * sy, ty - b * sx - a * sy];
}

/** By the box, made square and enlarged by a margin. */
function chipOfBox([x1, y1, x2, y2], margin, size) {
  const scale = size / (Math.max(x2 - x1, y2 - y1) * (1 + 2 * margin));
  return [scale, 0, 0, scale, size / 2 - scale * (x1 + x2) / 2, size / 2 - scale * (y1 + y2) / 2];
}

/** A chip's logits; of two views, the mean with those of its mirror image, mirrored back, left and right exchanged. */
async function logitsOf(session, spec, chip) {
  const { logits } = await session.run({ input: chip });
  if (spec.segmentation.views !== 2) return logits;
  const mirrored = ({ data, dims }, from = (channel) => channel) => {
    const [, channels, rows, columns] = dims, result = new Float32Array(data.length);
    for (let i = 0; i < data.length; i++) {
      const channel = Math.floor(i / (rows * columns)) % channels, row = Math.floor(i / columns) % rows;
      result[i] = data[(from(channel) * rows + row) * columns + columns - 1 - i % columns];
    }
    return result;
  };
  const labels = spec.segmentation.labels, other = { l_: "r_", r_: "l_" };
  const partners = labels.map((name, channel) => {
    const partner = labels.indexOf((other[name.slice(0, 2)] ?? name.slice(0, 2)) + name.slice(2));
    return partner < 0 ? channel : partner;
  });
  const seen = await session.run({ input: new ort.Tensor("float32", mirrored(chip), chip.dims) });
  const back = mirrored(seen.logits, (channel) => partners[channel]);
  return { dims: logits.dims, data: logits.data.map((value, i) => (value + back[i]) / 2) };
}

/** A face's parts as a picture in the palette's colours, `fine` x `fine` pixels over its chip, and their pixel counts. */
async function segment({ session, spec }, picture, transform, fine) {
  const size = spec.input.size, labels = spec.segmentation.labels;
  const chip = input(picture, transform, size, size, { ...spec.input, fit: "stretch" });
  const logits = await logitsOf(session, spec, chip);
  const [, count, rows, columns] = logits.dims;
  const image = new ImageData(fine, fine), parts = {};
  for (let i = 0; i < fine * fine; i++) {
    // Bilinear between the middles of the grid's cells, and the likeliest label there.
    const x = Math.min(Math.max((i % fine + 0.5) * columns / fine - 0.5, 0), columns - 1);
    const y = Math.min(Math.max((Math.floor(i / fine) + 0.5) * rows / fine - 0.5, 0), rows - 1);
    const left = Math.floor(x), top = Math.floor(y), right = Math.ceil(x), below = Math.ceil(y);
    const u = x - left, v = y - top;
    let best = -Infinity, label = 0;
    for (let c = 0; c < count; c++) {
      const at = (row, column) => logits.data[(c * rows + row) * columns + column];
      const value = (at(top, left) * (1 - u) + at(top, right) * u) * (1 - v) + (at(below, left) * (1 - u) + at(below, right) * u) * v;
      if (value > best) [best, label] = [value, c];
    }
    if (labels[label] === "background") continue;
    parts[labels[label]] = (parts[labels[label]] ?? 0) + 1;
    image.data.set([...PALETTE[label % PALETTE.length], 255], 4 * i);
  }
  const canvas = new OffscreenCanvas(fine, fine);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { canvas, parts };
}

const detector = open("models/default.onnx");
let picture = null, faces = [];

async function show(file) {
  element("segment").disabled = true;
  say("Looking at the picture");
  const full = await createImageBitmap(file); // upright, whatever the EXIF data say
  const scale = Math.min(1, LONGEST / Math.max(full.width, full.height));
  picture = element("picture");
  picture.width = Math.max(1, Math.round(full.width * scale));
  picture.height = Math.max(1, Math.round(full.height * scale));
  picture.getContext("2d").drawImage(full, 0, 0, picture.width, picture.height);
  picture = await createImageBitmap(picture);
  faces = await detect(await detector, picture);
  draw();
  say(faces.length === 1 ? "1 face" : `${faces.length} faces`);
  element("segment").disabled = !faces.length;
}

function draw() {
  const canvas = element("picture"), context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalAlpha = 1;
  context.drawImage(picture, 0, 0);
  context.lineWidth = Math.max(2, canvas.width / 300);
  context.strokeStyle = context.fillStyle = "#00c853";
  element("faces").replaceChildren();
  for (const { box, score, landmarks } of faces) {
    context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    for (const [x, y] of landmarks) context.fillRect(x - context.lineWidth / 2, y - context.lineWidth / 2, context.lineWidth, context.lineWidth);
    const item = document.createElement("li");
    item.textContent = `score ${score.toFixed(2)}, box ${box.map((value) => value.toFixed(0)).join(", ")}`;
    element("faces").append(item);
  }
}

async function showParts() {
  element("segment").disabled = true;
  say("Loading the parser");
  parser ??= open("models/parser.onnx");
  const model = await parser, size = model.spec.input.size;
  draw();
  const context = element("picture").getContext("2d");
  for (const [number, face] of faces.entries()) {
    say(`Face ${number + 1} of ${faces.length}`);
    const transform = chipOf(face, model.spec.alignment, size);
    const scale = Math.hypot(transform[0], transform[1]); // the mask gets the photograph's own pixels, up to 1024
    const fine = Math.min(1024, Math.max(size, Math.ceil(size / scale)));
    const { canvas, parts } = await segment(model, picture, transform, fine);
    const back = new DOMMatrix(transform).inverse().scale(size / fine);
    context.setTransform(back);
    context.globalAlpha = 0.6;
    context.drawImage(canvas, 0, 0);
    face.parts = parts;
    element("faces").children[number].append(`: ${Object.keys(parts).join(", ")}`);
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  say(faces.length === 1 ? "1 face with its parts" : `${faces.length} faces with their parts`);
}

let parser = null;
let last = Promise.resolve(); // one thing at a time, in the order in which it was asked for
const guarded = (work) => { last = last.then(work).catch((error) => say(`This did not work: ${error.message}`)); };
const drop = element("drop");
element("file").addEventListener("change", ({ target }) => target.files[0] && guarded(() => show(target.files[0])));
element("segment").addEventListener("click", () => guarded(showParts));
for (const name of ["dragover", "dragleave", "drop"]) {
  // On the whole page, lest a picture that misses the frame is opened instead of it.
  addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    const file = name === "drop" && event.dataTransfer.files[0]; // taken here: it is gone when the event is over
    if (file) guarded(() => show(file));
  });
}
// The parser is asked for only when the button is pressed; the button is there only if the server has it.
fetch("models/parser.onnx", { method: "HEAD" }).then(({ ok }) => { element("segment").hidden = !ok; }, () => {});
guarded(() => detector.then(() => say("Ready")));
export { faces };
