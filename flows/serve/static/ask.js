// One dialog for a reason, a line or a longer text; `done` gets it, and which button ended it.
const $ = id => document.getElementById(id);

let answered = null;
export function ask(title, { hint = "", label, value = "", long = false, buttons = false, ok = "Save" }, done) {
  $("ask-text-title").textContent = title;
  $("ask-text-hint").textContent = hint;
  $("ask-text-label").textContent = label;
  $("ask-text-ok").textContent = ok;
  $("ask-reasons").hidden = !buttons;
  $("text").hidden = long;
  $("long-text").hidden = !long;
  const field = long ? $("long-text") : $("text");
  field.value = value;
  // A pasted tab or another control character is no part of a text, and would be refused.
  answered = ended => done(field.value.replaceAll(/[^\P{Cc}\n]/gu, " ").trim(), ended);
  $("ask-text").returnValue = "";
  $("ask-text").showModal();
  field.focus();
}
// Not submit buttons: the first of those is what Enter in the field presses.
$("ask-reasons").addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button) $("ask-text").close(button.value);
});
$("ask-text-cancel").addEventListener("click", () => $("ask-text").close(""));
$("ask-text").addEventListener("close", () => { if ($("ask-text").returnValue) answered($("ask-text").returnValue); });
$("long-text").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("ask-text").close("text"); }
});
