// Keeps the page live: asks for it again every two seconds and puts in the parts that changed. The server alone
// renders; without this script the page is the same and stands still.
"use strict";
const every = 2000;
const button = document.getElementById("pause");
const state = document.getElementById("live");
let paused = false;
let seen = Date.now();

function say(text, bad) {
  if (state.textContent !== text) state.textContent = text;
  state.className = bad ? "note bad" : "note";
}

function busy(part) {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
}

function update(part, fresh) {
  if (part.isEqualNode(fresh) || busy(part)) return;
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const name = focused && (focused.getAttribute("href") || focused.getAttribute("aria-label"));
  const scrolled = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  part.replaceWith(fresh);
  fresh.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] || 0; });
  if (name) {
    const again = [...fresh.querySelectorAll("a, [tabindex]")]
      .find((it) => it.getAttribute("href") === name || it.getAttribute("aria-label") === name);
    if (again) again.focus({ preventScroll: true });
  }
}

async function refresh() {
  if (paused || document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) throw new Error("HTTP " + answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    for (const part of document.querySelectorAll("[data-part]")) {
      const other = fresh.getElementById(part.id);
      if (other) update(part, document.importNode(other, true));
    }
    seen = Date.now();
    say("live", false);
  } catch (error) {
    say("no answer for " + Math.round((Date.now() - seen) / 1000) + " s: what you see is old", true);
  }
}

async function run() {
  await refresh();
  setTimeout(run, every);
}

button.hidden = false;
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Go on" : "Pause";
  if (paused) say("paused", false);
  else refresh();
});
document.addEventListener("visibilitychange", refresh);
setTimeout(run, every);
