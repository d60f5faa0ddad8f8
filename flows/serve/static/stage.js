// The image of a sample: layers to switch, zoom and move by keyboard, mouse and touch.
"use strict";
(() => {
  const stage = document.getElementById("stage");
  if (!stage) return;
  const frame = stage.closest(".stage-frame");
  const image = stage.querySelector("img");
  const output = frame.querySelector(".zoom output");
  const tabs = [...frame.querySelectorAll("[data-layer]")];
  const size = { width: Number(stage.dataset.width), height: Number(stage.dataset.height) };
  const MOST = 32;
  // The image is drawn to fit; on top of that it is enlarged `scale` times and moved by x, y pixels.
  let scale = 1, x = 0, y = 0;

  const fitted = () => Math.min(stage.clientWidth / size.width, stage.clientHeight / size.height);

  function draw() {
    const { clientWidth: w, clientHeight: h } = stage;
    // What is larger than the stage covers it; what is smaller stays in the middle.
    const wide = size.width * fitted() * scale, tall = size.height * fitted() * scale;
    const left = (w * scale - wide) / 2, top = (h * scale - tall) / 2;
    x = wide <= w ? (w - wide) / 2 - left : Math.min(-left, Math.max(w - wide - left, x));
    y = tall <= h ? (h - tall) / 2 - top : Math.min(-top, Math.max(h - tall - top, y));
    image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    // Close up, single pixels are shown as they are.
    image.classList.toggle("exact", fitted() * scale >= 4);
    stage.classList.toggle("zoomed", scale > 1);
    output.textContent = `${Math.round(100 * fitted() * scale)} %`;
  }

  // Zoom so that the point under the pointer stays where it is.
  function zoom(factor, px = stage.clientWidth / 2, py = stage.clientHeight / 2) {
    const next = Math.min(MOST, Math.max(1, scale * factor));
    x = px - ((px - x) * next) / scale;
    y = py - ((py - y) * next) / scale;
    scale = next;
    draw();
  }

  function fit() { scale = 1; x = y = 0; draw(); }

  function move(dx, dy) { x += dx; y += dy; draw(); }

  function show(tab) {
    for (const other of tabs) other.toggleAttribute("aria-current", false);
    tab.setAttribute("aria-current", "true");
    image.src = tab.dataset.src;
    stage.dispatchEvent(new CustomEvent("layer", { detail: tab.dataset.layer, bubbles: true }));
  }

  const current = () => tabs.find((tab) => tab.hasAttribute("aria-current"));
  const source = () => tabs.find((tab) => tab.dataset.layer === "source");

  // While held, the good image is shown; afterwards what was there before.
  let peeked = null;
  function peek(on) {
    if (on && !peeked && source() && current() !== source()) {
      peeked = current();
      show(source());
    } else if (!on && peeked) {
      show(peeked);
      peeked = null;
    }
  }

  for (const tab of tabs) {
    tab.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      show(tab);
      history.replaceState(null, "", layerAddress(tab.dataset.layer));
    });
  }

  // The layer stays chosen from sample to sample.
  function layerAddress(name) {
    const address = new URL(location.href);
    address.searchParams.set("layer", name);
    for (const id of ["previous", "next"]) {
      const link = document.getElementById(id);
      if (!link || !link.href) continue;
      const there = new URL(link.href);
      there.searchParams.set("layer", name);
      link.href = there;
    }
    return address;
  }
  const asked = new URL(location.href).searchParams.get("layer");
  if (asked && tabs.some((tab) => tab.dataset.layer === asked)) layerAddress(asked);

  frame.addEventListener("click", (event) => {
    const what = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (what === "in") zoom(1.5);
    if (what === "out") zoom(1 / 1.5);
    if (what === "fit") fit();
  });

  const hold = frame.querySelector("[data-peek]");
  if (hold) {
    hold.addEventListener("pointerdown", () => peek(true));
    for (const end of ["pointerup", "pointerleave", "pointercancel", "blur"]) {
      hold.addEventListener(end, () => peek(false));
    }
    hold.addEventListener("keydown", (event) => { if (event.key === "Enter") peek(true); });
    hold.addEventListener("keyup", (event) => { if (event.key === "Enter") peek(false); });
    hold.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });

  // One finger or the mouse moves, two fingers zoom.
  const fingers = new Map();
  const gap = () => {
    const [a, b] = [...fingers.values()];
    return { far: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    stage.classList.add("moving");
  });
  stage.addEventListener("pointermove", (event) => {
    const finger = fingers.get(event.pointerId);
    if (!finger) return;
    const before = fingers.size === 2 ? gap() : null;
    const dx = event.clientX - finger.x, dy = event.clientY - finger.y;
    finger.x = event.clientX;
    finger.y = event.clientY;
    if (!before) return move(dx, dy);
    const after = gap(), box = stage.getBoundingClientRect();
    move(after.x - before.x, after.y - before.y);
    zoom(after.far / Math.max(1, before.far), after.x - box.left, after.y - box.top);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      fingers.delete(event.pointerId);
      if (!fingers.size) stage.classList.remove("moving");
    });
  }
  stage.addEventListener("dblclick", (event) => {
    const box = stage.getBoundingClientRect();
    if (scale > 1) fit();
    else zoom(3, event.clientX - box.left, event.clientY - box.top);
  });

  const STEP = 60;
  const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  const isTyping = (target) => target.closest("input, textarea, select, [contenteditable]");
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const key = event.key.toLowerCase();
    const tab = tabs[Number(event.key) - 1];
    if (tab) show(tab), history.replaceState(null, "", layerAddress(tab.dataset.layer));
    else if (key === "+" || key === "=") zoom(1.5);
    else if (key === "-") zoom(1 / 1.5);
    else if (key === "0") fit();
    // Arrows scroll the page unless there is something to move.
    else if (moves[event.key] && scale > 1) move(...moves[event.key]), event.preventDefault();
    else if (event.key === " " && !event.target.closest("button, a")) peek(true), event.preventDefault();
    else if (key === "n" || key === "p") document.getElementById(key === "n" ? "next" : "previous")?.click();
  });
  addEventListener("keyup", (event) => { if (event.key === " ") peek(false); });

  // Whoever replaces the image (the review page) starts from the whole of it.
  stage.addEventListener("reset", fit);
  new ResizeObserver(draw).observe(stage);
  draw();
  // All layers at hand, so that switching shows them at once.
  addEventListener("load", () => { for (const tab of tabs) new Image().src = tab.dataset.src; });
})();
