// Runs the compiled model on a picture, and draws where the score of a class comes from.
// Everything that is known of the model comes from model/about.json, which build.py writes.
import * as ort from "./vendor/ort.wasm.min.mjs";

// One thread needs no special headers, so that any static server will do.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;
ort.env.logLevel = "error";

const find = (id) => document.getElementById(id);
const page = { session: null, about: null, pixels: null, result: null, name: "" };

// ----- the model ---------------------------------------------------------------------------------------

async function load() {
  const about = await (await fetch("model/about.json")).json();
  const session = await ort.InferenceSession.create(`model/${about.file}`, { executionProviders: ["wasm"] });
  Object.assign(page, { about, session });
  for (const [index, label] of about.labels.entries()) find("class").append(new Option(label, index));
  find("class").prepend(new Option("the likeliest", -1, true, true));
  for (const sample of about.samples) addSample(sample);
  find("file").disabled = false;
  setState("ready", "Choose a picture.");
}

/** The model's input: grey values from 0 to 1, stretched to the model's size. */
function prepare(source, invert) {
  const { width, height } = page.about;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Float32Array(width * height);
  for (let i = 0; i < grey.length; i++) {
    const value = Math.round(0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]) / 255;
    grey[i] = invert ? 1 - value : value;
  }
  return grey;
}

async function run(pixels, target) {
  const { input, width, height } = page.about;
  const found = await page.session.run({
    [input]: new ort.Tensor("float32", pixels, [1, 1, height, width]),
    target: new ort.Tensor("int64", BigInt64Array.of(BigInt(target)), [1]),
  });
  const logits = Array.from(found[page.about.output].data);
  const largest = Math.max(...logits);
  const shares = logits.map((z) => Math.exp(z - largest));
  const total = shares.reduce((a, b) => a + b, 0);
  const best = logits.indexOf(largest);
  return {
    logits,
    probabilities: shares.map((s) => s / total),
    best,
    target: target < 0 ? best : target,
    saliency: Array.from(found.saliency.data),
    residual: Number(found.residual.data[0]),
  };
}

// ----- what is shown -----------------------------------------------------------------------------------

function setState(state, text) {
  document.body.dataset.state = state;
  find("status").textContent = text;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function showAnswer({ probabilities, best }) {
  const { labels } = page.about;
  find("prediction").textContent = `${labels[best]}, ${percent(probabilities[best])}`;
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  const rows = order.slice(0, 5).map((i) => {
    const row = document.createElement("tr");
    const name = Object.assign(document.createElement("th"), { scope: "row", textContent: labels[i] });
    const cell = document.createElement("td");
    const bar = Object.assign(document.createElement("span"), { className: "share" });
    bar.style.width = `${60 * probabilities[i]}%`;
    cell.append(bar, percent(probabilities[i]));
    row.append(name, cell);
    return row;
  });
  find("scores").tBodies[0].replaceChildren(...rows);
  find("prediction").hidden = find("scores").hidden = false;
}

// From black over red and yellow to white: light grows evenly, so that the map also reads in grey.
const STOPS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // prettier-ignore

function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[low].map((c, k) => Math.round(c + (place - low) * (STOPS[low + 1][k] - c)));
}

/** A small canvas of the model's size, from a function of the place to red, green, blue and opacity. */
function painted(width, height, at) {
  const canvas = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(at(i), 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function showMap() {
  const { saliency, target } = page.result;
  const { width, height, labels } = page.about;
  const largest = Math.max(...saliency, Number.MIN_VALUE);
  const strength = find("strength").value / 100;
  const canvas = find("map");
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  const grey = (i) => Math.round(255 * page.pixels[i]);
  context.drawImage(painted(width, height, (i) => [grey(i), grey(i), grey(i), 255]), 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = true;
  const share = (i) => saliency[i] / largest;
  const cover = (i) => Math.round(255 * strength * (0.3 + 0.7 * share(i))); // faint places leave the picture visible
  const shade = painted(width, height, (i) => [...colour(share(i)), cover(i)]);
  context.drawImage(shade, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", `${page.name}, with a map of what counts for the class ${labels[target]}. ${whereabouts()}`);
  find("legend").textContent = `Where the score of “${labels[target]}” comes from: bright places count most. ${whereabouts()}`;
}

/** The strongest part of the map in words, for those who do not see it. */
function whereabouts() {
  const { width, height } = page.about;
  const parts = new Array(9).fill(0);
  page.result.saliency.forEach((s, i) => {
    const row = Math.floor((3 * Math.floor(i / width)) / height);
    parts[3 * row + Math.floor((3 * (i % width)) / width)] += s;
  });
  const total = parts.reduce((a, b) => a + b, 0) || 1;
  const best = parts.indexOf(Math.max(...parts));
  const name = `${["upper", "middle", "lower"][Math.floor(best / 3)]} ${["left", "centre", "right"][best % 3]}`;
  return `The strongest ninth is the ${name}, with ${percent(parts[best] / total)} of the map.`;
}

function showProof({ logits, target, residual }) {
  const left = Math.abs(residual).toExponential(0);
  find("proof").textContent =
    `Proof: the score ${logits[target].toFixed(3)} is the sum of what the input and every bias contribute, ` +
    `but for ${left}, which is rounding.`;
}

function drawRamp() {
  const canvas = find("ramp");
  const ramp = painted(canvas.width, 1, (i) => [...colour(i / (canvas.width - 1)), 255]);
  canvas.getContext("2d").drawImage(ramp, 0, 0, canvas.width, canvas.height);
}

// ----- what happens ------------------------------------------------------------------------------------

let turn = 0;

async function explain() {
  const own = ++turn;
  if (!page.source) return;
  setState("busy", "Computing…");
  page.pixels = prepare(page.source, find("invert").checked);
  const result = await run(page.pixels, Number(find("class").value));
  if (own !== turn) return; // another picture or class was chosen meanwhile
  page.result = result;
  find("class").disabled = false;
  showAnswer(result);
  showMap();
  showProof(result);
  setState("done", `${page.name}: done.`);
  document.dispatchEvent(new CustomEvent("explained", { detail: result }));
}

async function open(blob, name) {
  try {
    page.source = await createImageBitmap(blob);
    page.name = name;
    await explain();
  } catch (error) {
    setState("error", `“${name}” cannot be shown (${error.message}). Please choose a PNG, JPEG or WebP picture.`);
  }
}

function press(button) {
  for (const other of find("samples").children) other.setAttribute("aria-pressed", String(other === button));
}

function addSample({ file, label }) {
  const button = Object.assign(document.createElement("button"), { type: "button", title: label });
  button.setAttribute("aria-pressed", "false");
  button.append(Object.assign(document.createElement("img"), { src: `model/${file}`, alt: label }));
  button.addEventListener("click", async () => {
    press(button);
    find("invert").checked = false;
    await open(await (await fetch(`model/${file}`)).blob(), label);
  });
  find("samples").append(button);
}

function chosen(file) {
  if (!file || !page.session) return;
  press(null);
  open(file, file.name);
}

find("file").addEventListener("change", (event) => chosen(event.target.files[0]));
for (const name of ["class", "invert"]) find(name).addEventListener("change", () => explain().catch(failed));
find("strength").addEventListener("input", () => page.result && showMap());
for (const kind of ["dragenter", "dragover"]) {
  find("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    find("drop").classList.add("over");
  });
}
find("drop").addEventListener("dragleave", () => find("drop").classList.remove("over"));
find("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  chosen(event.dataTransfer.files[0]);
});

function failed(error) {
  console.error(error);
  setState("error", `The network cannot be run here: ${error.message}`);
}

drawRamp();
load().catch(failed);
