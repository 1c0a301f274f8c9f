// The page: images in, classes out. Everything that comes from outside is shown as text, never as markup.

import { ApiError, explain, listModels, onKeyWanted, predict } from "./api.js";
import { draw, loadImage } from "./heat.js";

const $ = (id) => document.getElementById(id);
const ANSWERED = ["image/jpeg", "image/png", "image/gif", "image/bmp"]; // what the model itself decodes
const AT_ONCE = 4; // requests
const REFRESH = 5000; // ms between two looks at the models
const TINY = 96; // pixels below which an image is shown as pixels

let models = [];
let items = []; // {file, url, image, state: waiting | done | failed, outputs, kind, error, server, trip, version, explained}
let chosen = null;
let running = 0;
let batchStarted = 0;
let explaining = 0; // the number of the explanation that is wanted; older ones come too late

const format = {
  percent: (value) => (value < 0.0001 ? "< 0.01 %" : `${(100 * value).toFixed(value > 0.9995 || value < 0.0005 ? 2 : 1)} %`),
  number: (value) => String(Number(value.toPrecision(7))),
  score: (value, kind) => (kind === "raw" ? format.number(value) : format.percent(value)),
  ms: (value) => (value === null ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`),
};

// What scores mean: "single", classes of which one is right; "multi", a probability for each label; "raw", numbers.
const NOTES = {
  single: "",
  multi: "Each label has a probability of its own; they need not sum to 100 %.",
  binary: "The probability of this class; what is missing to 100 % is the other's.",
  raw: "Numbers as the model gives them; they are not probabilities.",
};
const YES = 0.5; // above this probability an image has a label

// ---- models and versions ----

const currentModel = () => models.find((model) => model.name === $("model").value);

function currentPath() {
  const version = $("version").value;
  return `v1/models/${encodeURIComponent($("model").value)}${version}`;
}

function currentVersion() {
  const model = currentModel();
  if (!model) return null;
  const [, kind, name] = /^\/(versions|labels)\/(.*)$/.exec($("version").value) ?? [];
  const available = model.versions.filter((version) => version.state === "AVAILABLE");
  if (!kind) return available[0] ?? null;
  const number = kind === "labels" ? model.labels[decodeURIComponent(name)] : name;
  return available.find((version) => version.version === String(number)) ?? null;
}

async function refresh() {
  try {
    models = await listModels();
  } catch (error) {
    say($("notice"), error.message);
    return;
  }
  fill($("model"), models.map((model) => [model.name, model.name]));
  showVersions();
}

function showVersions() {
  const model = currentModel();
  const available = (model?.versions ?? []).filter((version) => version.state === "AVAILABLE");
  fill($("version"), [
    ["", available.length ? `newest (${available[0].version})` : "none"],
    ...available.map((version) => [`/versions/${version.version}`, version.version]),
    ...Object.entries(model?.labels ?? {}).map(([label, number]) => [`/labels/${encodeURIComponent(label)}`, `${label} (${number})`]),
  ]);
  const version = currentVersion();
  let text = models.length ? "" : "This server has no model.";
  if (models.length && !version) text = "No version of this model is available.";
  if (version && !version.signatures.includes("serving_bytes")) {
    text = `This version takes no image files: it lacks the signature serving_bytes and has ${version.signatures.join(", ")}.`;
  }
  say($("notice"), text);
  showHeatSource();
}

// New options, the old choice where it is still there.
function fill(select, options) {
  const same = select.options.length === options.length && options.every(([value, text], i) => select.options[i].value === value && select.options[i].text === text);
  if (same) return;
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === before)) select.value = before;
}

// ---- images ----

async function add(files) {
  const images = [...files];
  if (!images.length) return;
  for (const file of images) {
    items.push({ file, url: URL.createObjectURL(file), image: null, state: "waiting", explained: null });
  }
  chosen = items[items.length - images.length];
  begin();
  start();
}

function again() {
  for (const item of items) Object.assign(item, { state: "waiting", explained: null, error: "" });
  explaining++;
  begin();
  start();
}

function begin() {
  if (!batchStarted) batchStarted = performance.now();
  $("batch-text").textContent = "";
}

function start() {
  render();
  while (running < AT_ONCE && items.some((item) => item.state === "waiting" && !item.sent)) {
    const item = items.find((one) => one.state === "waiting" && !one.sent);
    item.sent = true;
    running++;
    classify(item).finally(() => {
      item.sent = false;
      running--;
      if (items.includes(item)) start();
    });
  }
  if (!running) tellBatch();
}

async function classify(item) {
  const path = currentPath();
  const version = currentVersion();
  try {
    item.image ??= await sendable(item.file);
    const { outputs, server, trip } = await predict(path, item.image);
    if (path !== currentPath()) return; // another model was chosen meanwhile: it is asked next
    if (!outputs.top_labels) throw new ApiError("This model gives features, not classes.", 0);
    const kind = version?.kind ?? "single";
    const best = outputs.top_classes[0];
    Object.assign(item, { state: "done", outputs: inOrder(outputs, kind), kind, best, server, trip, version: version?.version ?? "" });
  } catch (error) {
    if (path !== currentPath()) return;
    Object.assign(item, { state: "failed", error: error.message });
  }
  if (item === chosen) {
    tell(item);
    if ($("heat-on").checked) showHeat();
  }
}

// The best come first, numbers as the model has them.
function inOrder({ top_labels: labels, top_scores: scores, top_classes: classes }, kind) {
  const places = [...classes.keys()];
  if (kind === "raw") places.sort((a, b) => classes[a] - classes[b]);
  const [top_labels, top_scores, top_classes] = [labels, scores, classes].map((values) => places.map((i) => values[i]));
  return { top_labels, top_scores, top_classes };
}

// {what an image shows in a few words, the score to it}
function headline({ outputs: { top_labels: labels, top_scores: scores }, kind }) {
  if (kind === "raw") return { best: scores.map(format.number).join(", "), score: "" };
  if (kind !== "multi") return { best: labels[0], score: format.percent(scores[0]) };
  if (scores.length === 1) {
    const named = labels[0] !== "0"; // an output without a name is called by its number
    const best = scores[0] > YES ? labels[0] : `not ${labels[0]}`;
    return named ? { best, score: format.percent(scores[0]) } : { best: format.percent(scores[0]), score: "" };
  }
  const said = labels.filter((_, i) => scores[i] > YES);
  return said.length ? { best: said.join(", "), score: "" } : { best: "no label above 50 %", score: "" };
}

// The model decodes JPEG, PNG, GIF and BMP; what else the browser knows becomes PNG here.
async function sendable(file) {
  if (ANSWERED.includes(file.type)) return file;
  try {
    const bitmap = await createImageBitmap(file);
    const canvas = document.createElement("canvas");
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    return (await new Promise((resolve) => canvas.toBlob(resolve))) ?? file;
  } catch {
    return file; // the server says what is wrong with it
  }
}

function tell(item) {
  const found = item.state === "done" ? headline(item) : { best: "not classified", score: "" };
  say($("status"), `${item.file.name}: ${[found.best, found.score].filter(Boolean).join(", ")}`);
}

function tellBatch() {
  const done = items.filter((item) => item.state !== "waiting");
  if (!batchStarted || done.length < items.length) return;
  const failed = done.filter((item) => item.state === "failed").length;
  const seconds = (performance.now() - batchStarted) / 1000;
  const rate = seconds > 0 ? `, ${(done.length / seconds).toFixed(done.length / seconds < 10 ? 1 : 0)} a second` : "";
  $("batch-text").textContent = `${done.length} images in ${seconds.toFixed(1)} s${rate}${failed ? `, ${failed} failed` : ""}`;
  batchStarted = 0;
}

// ---- what is shown ----

function render() {
  const any = items.length > 0;
  $("drop").classList.toggle("small", any);
  $("clear").hidden = !any;
  $("stage").hidden = !any;
  $("batch").hidden = items.length < 2;
  if (!any) return;
  renderChosen();
  renderStrip();
}

function renderChosen() {
  const item = chosen;
  if ($("image").src !== item.url) {
    $("image").src = item.url;
    $("image").alt = item.file.name;
    $("overlay").hidden = true;
    $("image").hidden = false;
  }
  $("caption").textContent = item.file.name;
  say($("error"), item.state === "failed" ? item.error : "");
  $("result").hidden = $("heat").hidden = item.state === "failed";
  $("stage").setAttribute("aria-busy", String(item.state === "waiting"));
  if (item.state === "waiting" && !item.outputs) {
    $("best").textContent = "…";
    $("kind").textContent = "";
    $("bars").replaceChildren();
  }
  if (item.state === "done") {
    const { top_labels: labels, top_scores: scores, top_classes: classes } = item.outputs;
    $("best").textContent = headline(item).best;
    $("kind").textContent = NOTES[item.kind === "multi" && labels.length === 1 ? "binary" : item.kind] ?? "";
    while ($("bars").children.length > labels.length) $("bars").lastChild.remove();
    labels.forEach((label, i) => {
      const row = $("bars").children[i] ?? $("bars").appendChild($("bar").content.firstElementChild.cloneNode(true));
      const button = row.firstElementChild;
      row.querySelector(".bar-name").textContent = label;
      row.querySelector(".bar-name").title = label;
      row.querySelector(".bar-score").textContent = format.score(scores[i], item.kind);
      row.querySelector(".bar-track").hidden = item.kind === "raw";
      row.querySelector(".bar-track i").style.width = `${100 * scores[i]}%`;
      button.dataset.index = classes[i];
      button.disabled = !explainable();
    });
    $("server-time").textContent = format.ms(item.server);
    $("trip-time").textContent = format.ms(item.trip);
    $("answered").textContent = item.version || "–";
  }
  markClass();
  showHeatSource();
}

function renderStrip() {
  const strip = $("strip");
  while (strip.children.length > items.length) strip.lastChild.remove();
  items.forEach((item, i) => {
    const row = strip.children[i] ?? strip.appendChild($("card").content.firstElementChild.cloneNode(true));
    row.className = item.state;
    const image = row.querySelector("img");
    if (image.src !== item.url) {
      image.src = item.url;
      image.classList.remove("broken", "tiny");
    }
    row.querySelector(".card-name").textContent = item.file.name;
    const { best, score } = item.state === "done" ? headline(item) : { best: item.state === "failed" ? "failed" : "…", score: "" };
    row.querySelector(".card-best").textContent = best;
    row.querySelector(".card-score").textContent = score;
    row.firstElementChild.setAttribute("aria-pressed", String(item === chosen));
    row.firstElementChild.dataset.place = i;
  });
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  if (element.getAttribute("role") === "alert") element.hidden = !text;
}

// ---- Grad-CAM ----

const explainable = () => currentVersion()?.explains ?? null;

function showHeatSource() {
  const source = explainable();
  $("heat-on").disabled = !source;
  $("heat-controls").hidden = !source || !$("heat-on").checked;
  $("layer").disabled = $("method").disabled = !source;
  if (!source && models.length) {
    say($("heat-text"), "Not for this version: it does not hold its Keras model. Export with --keras to have it.");
    $("overlay").hidden = true;
    $("image").hidden = false;
  } else if (!$("heat-on").checked) {
    say($("heat-text"), "");
  }
  $("hint").textContent = source && chosen?.state === "done" ? "Choose a class to see what speaks for it." : "";
}

async function showHeat(classIndex = chosen?.classIndex ?? null) {
  const item = chosen;
  showHeatSource();
  if (!item || item.state !== "done" || !explainable() || !$("heat-on").checked) {
    $("overlay").hidden = true;
    $("image").hidden = false;
    return;
  }
  item.classIndex = classIndex;
  markClass();
  const number = ++explaining;
  say($("heat-text"), "Computing …");
  $("heat").setAttribute("aria-busy", "true");
  try {
    const found = await explain(currentPath(), item.image, {
      layer: $("layer").value,
      method: $("method").value,
      classIndex,
    });
    const image = await loadImage(found.image.b64);
    if (number !== explaining || item !== chosen) return;
    item.explained = { ...found, image };
    showLayers(found);
    paint();
    const what = `${found.class.name}, ${format.score(found.class.score, found.kind)}`;
    say($("heat-text"), `What speaks for ${what}, at ${found.layer}, ${found.heat[0].length} × ${found.heat.length} places.`);
  } catch (error) {
    if (number === explaining) say($("heat-text"), error.message);
  } finally {
    if (number === explaining) $("heat").removeAttribute("aria-busy");
  }
}

// The layers by stage, the end of each block named first.
function showLayers({ layers, layer }) {
  const known = [...$("layer").options].map((option) => option.value).join("\n");
  if (known !== layers.join("\n")) {
    const groups = new Map();
    for (const name of layers) {
      const stage = /^layer\d+/.exec(name)?.[0] ?? "other layers";
      groups.set(stage, [...(groups.get(stage) ?? []), name]);
    }
    $("layer").replaceChildren(
      ...[...groups].map(([stage, names]) => {
        const group = document.createElement("optgroup");
        group.label = stage;
        group.append(...names.map((name) => new Option(name, name)));
        return group;
      }),
    );
  }
  if (layer) $("layer").value = layer;
}

function paint() {
  const found = chosen?.explained;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  if (!found || !$("heat-on").checked) return;
  draw($("overlay"), found.image, found.heat, $("opacity").value / 100);
  $("overlay").setAttribute("aria-label", `${chosen.file.name} as the model sees it, with where it looks for ${found.class?.name ?? "its best class"}`);
  $("overlay").hidden = false;
  $("image").hidden = true;
}

function markClass() {
  for (const button of $("bars").querySelectorAll("button")) {
    const shown = chosen?.classIndex ?? chosen?.best;
    button.setAttribute("aria-pressed", String($("heat-on").checked && Boolean(explainable()) && Number(button.dataset.index) === shown));
  }
}

// ---- what the user does ----

function choose(item) {
  chosen = item;
  render();
  if ($("heat-on").checked) showHeat();
}

$("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
$("clear").addEventListener("click", () => {
  for (const item of items) URL.revokeObjectURL(item.url);
  items = [];
  chosen = null;
  explaining++;
  say($("status"), "");
  $("batch-text").textContent = "";
  $("image").removeAttribute("src");
  render();
  $("files").focus();
});
$("model").addEventListener("change", () => {
  $("version").replaceChildren();
  $("layer").replaceChildren();
  showVersions();
  again();
});
$("version").addEventListener("change", () => {
  $("layer").replaceChildren();
  showVersions();
  again();
});
$("heat-on").addEventListener("change", () => {
  markClass();
  showHeat();
});
$("layer").addEventListener("change", () => showHeat());
$("method").addEventListener("change", () => showHeat());
$("opacity").addEventListener("input", paint);
$("bars").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.disabled) return;
  $("heat-on").checked = true;
  showHeat(Number(button.dataset.index));
});
$("strip").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) choose(items[Number(button.dataset.place)]);
});
document.addEventListener("error", (event) => event.target.classList?.add("broken"), true);
document.addEventListener("load", (event) => {
  const image = event.target;
  if (image.tagName === "IMG" && image.naturalWidth) {
    image.classList.remove("broken");
    image.classList.toggle("tiny", image.src.startsWith("blob:") && Math.max(image.naturalWidth, image.naturalHeight) < TINY);
  }
}, true);

addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) add(event.clipboardData.files);
});
let depth = 0;
addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth++;
  document.body.classList.add("over");
});
addEventListener("dragleave", () => {
  if (--depth <= 0) document.body.classList.remove("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("over");
  add(event.dataTransfer.files);
});

let asking = null;
onKeyWanted((given) => {
  asking ??= new Promise((resolve) => {
    say($("key-error"), given ? "That is not the key." : "");
    $("key").value = "";
    $("key-dialog").addEventListener("close", () => resolve($("key").value), { once: true });
    $("key-dialog").showModal();
  }).finally(() => (asking = null));
  return asking;
});

refresh();
setInterval(() => document.visibilityState === "visible" && !$("key-dialog").open && refresh(), REFRESH);
