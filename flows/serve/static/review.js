// The review page: shows samples in the order of the server, takes decisions by key or button.
//
// `list` holds the samples that were loaded, in order; `at` is the one that is shown, or that has
// the focus in the grid. A decision is shown at once and counted when the server has confirmed it.
import { ask } from "/static/ask.js";
import { Outbox } from "/static/outbox.js";

const $ = id => document.getElementById(id);
const root = $("review");
const { base, key } = root.dataset;
const reasons = JSON.parse(root.dataset.reasons);
const sentences = JSON.parse(root.dataset.kinds);
const readOnly = root.dataset.readOnly === "1";
const AHEAD = 6; // samples whose images are loaded before they are shown
const PAGE = 24; // samples on a page of the grid
const SAID = { keep: "kept", reject: "rejected", unsure: "unsure" };

let reviewer = remembered("reviewer");
let list = [], reached = -1, exhausted = false, loading = null, at = 0, first = 0;
let steps = []; // decisions that can be undone: {at, samples: [{sample, before}]}
let layer = "edited", closeUp = false, peeking = false, grid = remembered("mode") === "grid";
let anchor = 0, chosen = new Set(), totals = null, lastTime = 0, generation = 0;
const images = new Map(); // what was preloaded; the browser keeps the files

const outbox = new Outbox(`${base}/review/decisions`, key, report, confirmed);

function remembered(name) { try { return localStorage.getItem(`anomalysmith.${name}`) ?? ""; } catch { return ""; } }
function remember(name, value) { try { localStorage.setItem(`anomalysmith.${name}`, value); } catch { /* private window */ } }

// --- samples -------------------------------------------------------------------------------------

// Load the next samples when few are left. `again` begins anew, as after a change of the filters.
function load(again = false) {
  if (again) { list = []; reached = -1; at = first = 0; exhausted = false; loading = null; generation += 1; steps = []; }
  if (loading || exhausted) return loading ?? Promise.resolve();
  const asked = generation, begun = reached < 0;
  const query = new URLSearchParams({
    reviewer, show: $("show").value, kind: $("kind").value, after: reached,
  });
  loading = (async () => {
    try {
      const response = await fetch(`${base}/review/queue?${query}`);
      if (!response.ok) throw new Error(`The server answers ${response.status}.`);
      const found = await response.json();
      if (asked !== generation) return;
      // Decisions that still wait to be sent are known here only.
      const waiting = new Map(outbox.batches.flatMap(b => b.reviewer === reviewer ? b.decisions : []).map(d => [d.sample, d]));
      const fresh = found.samples.filter(one => $("show").value !== "new" || !waiting.get(one.id)?.verdict);
      for (const one of fresh) { const own = waiting.get(one.id); if (own) Object.assign(one, standing(own)); }
      if (begun) steps = stepsOf(found.steps);
      list.push(...fresh);
      exhausted = found.samples.length === found.left;
      reached = found.samples.at(-1)?.position ?? reached;
      totals = found.totals;
      loading = null;
      if (!fresh.length && !exhausted) return load();
    } catch (error) {
      if (asked !== generation) return;
      loading = null;
      if (!list[at]) { show(); $("end-text").textContent = `${error.message || "The server does not answer."} The page tries again by itself.`; }
      setTimeout(() => load().then(show), 2000);
      return;
    }
    show();
  })();
  return loading;
}

const standing = own => ({ verdict: own.verdict ?? "", reason: own.reason ?? "", note: own.note ?? "", at: own.at });

// The last decisions as the server knows them; those of one moment were made at once.
function stepsOf(known) {
  const made = [];
  for (const one of known) {
    if (made.at(-1)?.at === one.at) made.at(-1).samples.push({ sample: one, before: null });
    else made.push({ at: one.at, samples: [{ sample: one, before: null }] });
  }
  return made;
}

const url = (which, row) => `${base}/layer/${which}/${row}`;

function preload() {
  const rows = list.slice(at, at + AHEAD + 1).map(one => one.row);
  const wanted = new Set(rows.flatMap(row => [url(layer, row), url("source", row), url("edited", row)]));
  for (const address of wanted) if (!images.has(address)) {
    const image = new Image();
    image.src = address;
    images.set(address, image);
  }
  for (const address of images.keys()) if (!wanted.has(address)) images.delete(address);
}

// --- decisions -----------------------------------------------------------------------------------

// The time of a decision: never twice the same, as it is what an undo names.
function now() {
  lastTime = Math.max(Date.now(), lastTime + 1);
  return new Date(lastTime).toISOString();
}

function targets() {
  if (!grid) return list[at] ? [list[at]] : [];
  const some = [...chosen].sort((a, b) => a - b).map(n => list[n]);
  return some.length ? some : list[at] ? [list[at]] : [];
}

function decide(verdict, { reason = "", note = null } = {}) {
  const some = targets();
  if (readOnly || !some.length) return;
  const pressed = performance.now(), time = now();
  steps.push({ at: time, samples: some.map(sample => ({ sample, before: standing({ ...sample }) })) });
  const decisions = some.map(sample => {
    Object.assign(sample, { verdict, reason, note: note ?? sample.note ?? "", at: time, sure: false });
    return { sample: sample.id, verdict, reason, note: sample.note, at: time };
  });
  outbox.add(reviewer, decisions, pressed);
  if (grid) { chosen.clear(); if (some.length === 1) step(1); else show(); } else step(1);
}

function undo() {
  const last = steps.pop();
  if (readOnly) return;
  if (!last) { announce("There is nothing left to undo."); return; }
  const time = now();
  outbox.add(reviewer, last.samples.map(({ sample }) => ({ sample: sample.id, verdict: null, at: time, withdraws: last.at })));
  for (const { sample, before } of last.samples) {
    const here = list.find(one => one.id === sample.id);
    if (!here) list.splice(at, 0, sample);
    // What stood before is known to the server where it is not known here.
    Object.assign(here ?? sample, before ?? { verdict: "", reason: "", note: "" });
  }
  at = list.findIndex(one => one.id === last.samples[0].sample.id);
  if (grid) { first = PAGE * Math.floor(at / PAGE); chosen = new Set(last.samples.map(({ sample }) => list.findIndex(one => one.id === sample.id))); }
  announce(last.samples.length > 1 ? `Took back ${last.samples.length} decisions.` : "Took back the last decision.");
  show();
}

// The server has written these batches.
function confirmed(answer, batches) {
  totals = answer.totals;
  for (const batch of batches) {
    if (batch.pressed) performance.measure("decision", { start: batch.pressed, end: performance.now() });
    for (const decision of batch.decisions) {
      const here = list.find(one => one.id === decision.sample);
      const waiting = outbox.batches.some(other => other.decisions.some(d => d.sample === decision.sample));
      if (here && !waiting && batch.reviewer === reviewer) Object.assign(here, answer.stands[decision.sample], { sure: true });
    }
  }
  draw();
}

function report(state, message) {
  const waiting = outbox.waiting;
  $("sync").dataset.state = state;
  $("sync").textContent = state === "idle" ? (totals ? "all saved" : "") : state === "sending" ? "saving …" : `${waiting} not saved yet`;
  $("trouble").hidden = state === "idle" || state === "sending";
  $("discard").hidden = state !== "refused";
  if (state === "away") $("trouble-text").textContent = `${message} ${waiting === 1 ? "One decision is" : `${waiting} decisions are`} kept in this browser and sent again by itself. You can go on.`;
  if (state === "idle" && soon) { soon = 0; ahead(); }
  if (state === "refused") $("trouble-text").textContent = `The server refuses ${waiting === 1 ? "a decision" : `${waiting} decisions`}: ${message}`;
}

// --- moving --------------------------------------------------------------------------------------

function step(by) {
  const next = at + by;
  if (next < 0) return;
  at = Math.min(next, list.length);
  if (grid) { at = Math.min(at, Math.min(first + PAGE, list.length) - 1); anchor = at; }
  show();
}

function page(by) {
  const next = first + by * PAGE;
  if (next < 0) return;
  if (next >= list.length) { load().then(() => { if (next < list.length) turn(next); else if (exhausted) { at = list.length; show(); } }); return; }
  turn(next);
}
function turn(to) { first = at = anchor = to; chosen.clear(); show(); }

function select(n, range) {
  if (range) { chosen = new Set(); for (let k = Math.min(anchor, n); k <= Math.max(anchor, n); k += 1) chosen.add(k); }
  else { anchor = n; if (chosen.has(n)) chosen.delete(n); else chosen.add(n); }
  at = n;
  show();
}

// --- drawing -------------------------------------------------------------------------------------

const kindText = one => sentences[one.kind] ?? one.kind.replaceAll("_", " ");
const said = one => one.verdict ? `${SAID[one.verdict]}${one.reason ? `: ${(reasons[one.reason] ?? one.reason)}` : ""}${one.note ? ` (${one.note})` : ""}` : one.note ? `note: ${one.note}` : "";

function announce(text) { $("sync").textContent = text; }

function draw() {
  if (totals) {
    const mine = totals.mine, all = totals.samples;
    $("done").max = all;
    $("done").value = mine;
    $("done-text").textContent = `${mine.toLocaleString("en")} of ${all.toLocaleString("en")} reviewed`;
  }
  report(outbox.state, outbox.message);
  $("who").textContent = reviewer || "your name";
  $("mode").setAttribute("aria-pressed", grid);
  const over = !list[at];
  $("single").hidden = grid || over;
  $("several").hidden = !grid || over;
  $("end").hidden = !over;
  root.dataset.ready = list.length || exhausted ? "1" : "";
  if (over) {
    $("end-text").textContent = !exhausted ? "Loading …" : list.length || $("show").value !== "new" ? "That was the last of these samples." : "You have reviewed all of them.";
    return;
  }
  if (grid) drawGrid(); else drawSingle();
}

function show() { draw(); ahead(); }

// What comes next is loaded when nothing is on its way to the server, so that a decision is confirmed
// at once. While the server is away, it is asked now and then.
let soon = 0;
function ahead() {
  clearTimeout(soon);
  if (outbox.state === "sending") { soon = setTimeout(ahead, 300); return; }
  preload();
  if (list.length - at <= 2 * AHEAD || (grid && list.length - first <= 2 * PAGE)) load();
}

function drawSingle() {
  const one = list[at], which = peeking ? "source" : layer;
  const label = document.querySelector(`[data-layer="${which}"]`).textContent.trim().slice(2).trim();
  put($("main-image"), url(which, one.row), `${label} of ${one.image}: ${kindText(one)}`, one.box);
  put($("source-image"), url("source", one.row), "The good image that it was made from", one.box);
  $("main-name").textContent = label.toLowerCase();
  for (const button of document.querySelectorAll(".layer[data-layer]")) button.setAttribute("aria-pressed", button.dataset.layer === which);
  $("close-up").setAttribute("aria-pressed", closeUp);
  $("position").textContent = `sample ${one.id.split("@").at(-1)} of ${one.image}`;
  $("details").href = `${base}/sample/${one.row}`;
  $("statement").textContent = kindText(one);
  $("facts").textContent = [one.control ? "a control: still a good product" : "an anomaly", one.rule && `meant to break ${one.rule.replaceAll("+", " and ")}`].filter(Boolean).join(" · ");
  $("said").textContent = said(one) ? `You: ${said(one)}` : "not decided by you";
  $("said").className = `said ${one.verdict}`;
  for (const button of document.querySelectorAll("#single .verdict")) button.setAttribute("aria-pressed", button.dataset.verdict === one.verdict);
  $("back").disabled = at === 0;
}

// Show an image, zoomed to the change where a close-up is wanted.
function put(image, address, text, [x0, y0, x1, y1]) {
  if (!image.src.endsWith(address)) image.src = address;
  image.alt = text;
  const width = Number(root.dataset.width), height = Number(root.dataset.height);
  // Twice the size of the change, so that its surroundings are seen; at most eight times enlarged.
  const zoom = closeUp && x1 > x0 ? Math.min(8, Math.max(1, 0.5 * Math.min(width / (x1 - x0), height / (y1 - y0)))) : 1;
  const x = zoom > 1 ? Math.min(1 - 0.5 / zoom, Math.max(0.5 / zoom, (x0 + x1) / 2 / width)) : 0.5;
  const y = zoom > 1 ? Math.min(1 - 0.5 / zoom, Math.max(0.5 / zoom, (y0 + y1) / 2 / height)) : 0.5;
  image.style.transform = `scale(${zoom}) translate(${(50 - 100 * x).toFixed(2)}%, ${(50 - 100 * y).toFixed(2)}%)`;
  image.classList.toggle("exact", zoom > 3);
}

function drawGrid() {
  const page = list.slice(first, first + PAGE), box = $("grid");
  const ids = page.map(one => one.id).join("\n");
  if (box.dataset.ids !== ids) {
    box.dataset.ids = ids;
    box.replaceChildren(...page.map((one, k) => {
      const item = document.createElement("li"), image = new Image(), line = document.createElement("span"), mark = document.createElement("span");
      item.setAttribute("role", "option");
      item.dataset.n = first + k;
      image.src = `${base}/thumb/marked/${one.row}`;
      image.alt = one.image;
      line.className = "kind";
      line.textContent = one.kind.replaceAll("_", " ");
      mark.className = "mark";
      item.append(image, line, mark);
      return item;
    }));
  }
  [...box.children].forEach((item, k) => {
    const n = first + k, one = list[n];
    item.dataset.n = n;
    item.className = one.verdict;
    item.tabIndex = n === at ? 0 : -1;
    item.setAttribute("aria-selected", chosen.has(n));
    item.querySelector(".mark").textContent = one.verdict ? SAID[one.verdict] : "";
    item.title = said(one);
  });
  const focused = box.querySelector('[tabindex="0"]');
  if (focused && (document.activeElement === document.body || box.contains(document.activeElement))) focused.focus();
  $("chosen").textContent = chosen.size ? `${chosen.size} selected` : "none selected";
  $("page-back").disabled = first === 0;
}

// --- questions -----------------------------------------------------------------------------------

function askName() {
  $("name").value = reviewer;
  $("ask-name").showModal();
}
$("ask-name").addEventListener("close", () => {
  const name = $("name").value.trim().replaceAll(/\s+/g, " ");
  if (!name) { if (!reviewer) askName(); return; }
  if (name === reviewer && list.length) return;
  reviewer = name;
  remember("reviewer", name);
  load(true).then(show);
});

function askReason() {
  if (readOnly || !targets().length) return;
  ask("Reject, because", { label: "Another reason, in few words", buttons: grid, ok: "Reject" }, (text, ended) => {
    if (ended !== "text") decide("reject", { reason: ended });
    else if (text) {
      const option = document.createElement("option");
      option.value = text;
      if (![...$("used").children].some(other => other.value === text)) $("used").append(option);
      decide("reject", { reason: text });
    }
  });
}

function askNote() {
  const some = targets();
  if (readOnly || !some.length) return;
  const title = some.length > 1 ? `A note on ${some.length} samples` : "A note on this sample";
  const hint = some[0].verdict ? "" : "It is saved with your next decision on it.";
  ask(title, { label: "Note", value: some[0].note ?? "", long: true, hint }, text => {
    for (const one of some) one.note = text;
    // A note on a sample that has a verdict is the same decision again, with the note.
    const decided = some.filter(one => one.verdict);
    if (decided.length) {
      const time = now();
      steps.push({ at: time, samples: decided.map(sample => ({ sample, before: null })) });
      outbox.add(reviewer, decided.map(one => ({ sample: one.id, verdict: one.verdict, reason: one.reason, note: text, at: time })), performance.now());
    }
    show();
  });
}

// --- keys and buttons ----------------------------------------------------------------------------

function setLayer(name) { layer = name; show(); }
function peek(on) { if (peeking !== on && !grid && list[at]) { peeking = on; draw(); } }
function setMode(on) {
  grid = on;
  remember("mode", on ? "grid" : "");
  first = PAGE * Math.floor(Math.min(at, list.length - 1) / PAGE);
  first = Math.max(0, first);
  anchor = at;
  chosen.clear();
  show();
  if (grid) $("grid").querySelector('[tabindex="0"]')?.focus();
}

const KEYS = {
  k: () => decide("keep"), r: () => decide("reject"), u: () => decide("unsure"), z: undo, n: askNote, 0: askReason,
  g: () => setMode(!grid), "?": () => $("help").showModal(), c: () => { closeUp = !closeUp; draw(); },
};
Object.keys(reasons).forEach((reason, k) => { KEYS[k + 1] = () => decide("reject", { reason }); });
for (const button of document.querySelectorAll(".layer[data-layer]")) {
  const name = button.dataset.layer;
  KEYS[button.querySelector("kbd").textContent] = () => { if (!grid) setLayer(name); };
  button.addEventListener("click", () => setLayer(name));
}
const SINGLE = { ArrowLeft: () => step(-1), ArrowRight: () => step(1) };
const GRID = {
  ArrowLeft: shift => go(-1, shift), ArrowRight: shift => go(1, shift), ArrowUp: shift => go(-columns(), shift), ArrowDown: shift => go(columns(), shift),
  " ": () => select(at), Enter: () => page(1), b: () => page(-1), a: () => { for (let n = first; n < Math.min(first + PAGE, list.length); n += 1) if (!list[n].verdict) chosen.add(n); show(); },
};
const columns = () => getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
function go(by, shift) {
  const to = Math.min(Math.min(first + PAGE, list.length) - 1, Math.max(first, at + by));
  if (shift) select(to, true); else { at = anchor = to; show(); }
}

document.addEventListener("keydown", event => {
  // A dialog that has just been closed keeps the focus until the next picture is drawn.
  const dialog = event.target.closest("dialog");
  const typing = dialog ? dialog.open : event.target.closest("input, textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  // A focused button or link is pressed by these, as everywhere.
  if ((event.key === " " || event.key === "Enter") && event.target.closest("button, a")) return;
  if (event.key === " " && !grid && list[at]) { event.preventDefault(); peek(true); return; }
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = (grid ? GRID : SINGLE)[name] ?? KEYS[name];
  // A key that is held down decides once.
  if (!act || (event.repeat && !name.startsWith("Arrow"))) return;
  event.preventDefault();
  act(event.shiftKey);
});
document.addEventListener("keyup", event => { if (event.key === " ") peek(false); });
addEventListener("blur", () => peek(false));

root.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button?.dataset.verdict) decide(button.dataset.verdict);
  else if (button?.dataset.reason) decide("reject", { reason: button.dataset.reason });
  else if (button?.classList.contains("undo")) undo();
  else if (button?.classList.contains("note")) askNote();
  const item = event.target.closest("#grid > li");
  if (item) select(Number(item.dataset.n), event.shiftKey);
});
$("grid").addEventListener("dblclick", event => {
  const item = event.target.closest("li");
  if (item) { at = Number(item.dataset.n); setMode(false); }
});
for (const [id, act] of Object.entries({
  "close-up": KEYS.c, other: askReason, "reasons-open": askReason, back: () => step(-1), skip: () => step(1), all: GRID.a, "page-back": () => page(-1), "page-next": () => page(1),
  mode: KEYS.g, who: askName, "help-open": KEYS["?"], retry: () => outbox.send(),
  discard: () => { outbox.discard(); load(true).then(show); },
})) $(id).addEventListener("click", act);
for (const id of ["show", "kind"]) $(id).addEventListener("change", () => { load(true).then(show); $(id).blur(); });
$("main-image").addEventListener("pointerdown", event => { event.preventDefault(); peek(true); });
for (const name of ["pointerup", "pointercancel", "pointerleave"]) $("main-image").addEventListener(name, () => peek(false));

if (readOnly) for (const part of document.querySelectorAll(".verdicts, .reasons, .undo, .note, #reasons-open")) part.hidden = true;
const wanted = new URLSearchParams(location.search);
if ([...$("show").options].some(option => option.value === wanted.get("show"))) $("show").value = wanted.get("show");
if ([...$("kind").options].some(option => option.value === wanted.get("kind"))) $("kind").value = wanted.get("kind");
outbox.send();
if (reviewer || readOnly) { reviewer ||= "guest"; load(true).then(show); } else askName();
