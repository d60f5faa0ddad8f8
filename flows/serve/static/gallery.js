// The gallery's filters apply as soon as one is chosen; without this script their button does it.
"use strict";
const form = document.getElementById("filters");
const box = document.getElementById("filter-box");
// Closed on a narrow window, where they would push the samples out of sight.
const wide = matchMedia("(min-width: 861px)");
const fold = () => { box.open = wide.matches; };
fold();
wide.addEventListener("change", fold);
document.addEventListener("change", (event) => {
  if (event.target.form === form) form.requestSubmit();
});
form.addEventListener("submit", () => {
  // Empty fields and the first, usual choices only make the address longer.
  for (const field of form.elements) {
    if (field.name && (field.value === "" || field.selectedIndex === 0)) field.disabled = true;
  }
});
// Back in the history: the browser shows the page as it was left.
addEventListener("pageshow", () => { for (const field of form.elements) field.disabled = false; });
