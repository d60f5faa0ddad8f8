// The page of rules: sends what was typed, follows a job, and turns clicks in a picture into places.
const root = document.getElementById("rules");
const { here, digest, saved } = root.dataset;
const $ = id => document.getElementById(id);

function problem(text) {
  $("problem").hidden = !text;
  $("problem").firstElementChild.textContent = text;
  if (text) $("problem").scrollIntoView({ block: "nearest" });
}

// Send something; reload the page where the reader is, unless it was refused.
async function post(what, content) {
  problem("");
  try {
    const response = await fetch(`${here}/${what}`, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content),
    });
    if (response.ok) { location.reload(); return; }
    const text = await response.text();
    let said = text;
    try { said = JSON.parse(text).error ?? text; } catch { /* plain text */ }
    problem(said.trim());
  } catch {
    problem("The server does not answer. Is it still running?");
  }
}

for (const button of root.querySelectorAll("[data-post]")) {
  button.addEventListener("click", () => post(button.dataset.post, { digest, saved }));
}

$("start")?.addEventListener("submit", event => {
  event.preventDefault();
  const form = event.currentTarget;
  post(event.submitter.value, { version: form.version.value, limit: Number(form.limit.value), digest });
});

// --- a job in the background ---------------------------------------------------------------------

async function follow() {
  try {
    const job = await (await fetch(`${here}/state`)).json();
    if (!job.running) { location.reload(); return; }
    $("job-title").textContent = job.title;
    $("job-step").textContent = job.step;
    $("job-done").max = Math.max(1, job.total);
    $("job-done").value = job.done;
    $("job-count").textContent = job.total ? `${job.done} of ${job.total} images` : "";
    problem("");
  } catch {
    problem("The server does not answer; what it was working on may be lost.");
  }
  setTimeout(follow, 500);
}
if (root.dataset.running === "1") follow();

// --- one part ------------------------------------------------------------------------------------

const SIDES = ["left", "top", "right", "bottom"];
const slotsOf = form => form.slots.value.split("\n").map(line => line.split(/[,;\s]+/).filter(Boolean).map(Number)).filter(slot => slot.length);
const round = value => Math.round(1000 * value) / 1000;

for (const form of root.querySelectorAll(".part-form")) {
  const { place } = form;
  const arrange = () => {
    for (const kind of ["box", "slots"]) for (const some of form.querySelectorAll(`.if-${kind}`)) some.hidden = place.value !== kind;
    form.querySelector(".if-place").hidden = place.value === "anywhere";
    form.closest(".part").querySelector(".place")?.classList.toggle("aims", place.value !== "anywhere" && !form.elements[0].disabled);
  };
  arrange();
  place.addEventListener("change", arrange);
  form.addEventListener("submit", event => {
    event.preventDefault();
    const where = { kind: place.value };
    if (where.kind === "box") where.box = SIDES.map(side => Number(form[side].value));
    if (where.kind === "slots") Object.assign(where, { slots: slotsOf(form), radius: Number(form.radius.value) });
    if (where.kind === "slots" && where.slots.some(slot => slot.length !== 2 || slot.some(Number.isNaN))) {
      problem("Expected two numbers on each line of places, such as 0.12, -0.3");
      return;
    }
    post("edit", { digest, part: form.dataset.part, name: form.elements.name.value, count: form.count.value, place: where });
  });

  const image = form.closest(".part").querySelector(".place img");
  if (image) aim(form, image);
}

// Clicks in the picture: a box is dragged, places are added and removed.
function aim(form, image) {
  const frame = Object.fromEntries(["x", "y", "angle", "size", "width", "height"].map(name => [name, Number(image.dataset[name])]));
  // From a position on the screen to one in the product, the inverse of what the server draws.
  const inward = event => {
    const box = image.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * frame.width - frame.x, y = (event.clientY - box.top) / box.height * frame.height - frame.y;
    const c = Math.cos(frame.angle), s = Math.sin(frame.angle);
    return [round((c * x + s * y) / frame.size), round((c * y - s * x) / frame.size)];
  };
  let from = null;
  image.addEventListener("pointerdown", event => {
    if (form.place.value === "anywhere" || form.elements[0].disabled) return;
    event.preventDefault();
    image.setPointerCapture(event.pointerId);
    from = inward(event);
  });
  image.addEventListener("pointermove", event => {
    if (!from || form.place.value !== "box") return;
    const to = inward(event);
    [form.left.value, form.right.value] = [from[0], to[0]].sort((a, b) => a - b);
    [form.top.value, form.bottom.value] = [from[1], to[1]].sort((a, b) => a - b);
  });
  image.addEventListener("pointerup", event => {
    if (!from) return;
    if (form.place.value === "slots") {
      const [x, y] = inward(event), slots = slotsOf(form), radius = Number(form.radius.value) || 0.05;
      const hit = slots.findIndex(slot => Math.hypot(slot[0] - x, slot[1] - y) <= radius);
      if (hit >= 0) slots.splice(hit, 1); else slots.push([x, y]);
      form.slots.value = slots.map(slot => slot.join(", ")).join("\n");
      form.slots.rows = Math.max(2, slots.length);
    }
    from = null;
  });
}
