// Keeps an open page up to date: every few seconds the parts that are marked data-live are taken from the page anew.
// What a person has focused, opened or scrolled to stays. Without this file the page is the same, with a link to refresh.
"use strict";
(() => {
  const EVERY_MS = 5000;
  const control = document.getElementById("live");
  const said = document.getElementById("live-said");
  if (!control || !window.fetch || !window.DOMParser) return;
  let on = true;
  let busy = false;

  const label = () => {
    control.textContent = on ? "Pause updates" : "Resume updates";
  };

  const say = (words) => {
    if (said.textContent !== words) said.textContent = words;
  };

  const opened = (part) => [...part.querySelectorAll("details[open][id]")].map((one) => one.id);

  const swap = (part, fresh) => {
    const open = opened(part);
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    if (focused && /^(INPUT|SELECT|TEXTAREA)$/.test(focused.tagName)) return;
    const mark = focused && (focused.id ? `#${CSS.escape(focused.id)}` : focused.getAttribute("href") && `a[href="${CSS.escape(focused.getAttribute("href"))}"]`);
    const taken = document.importNode(fresh, true);
    for (const id of open) taken.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
    part.replaceWith(taken);
    if (mark) taken.querySelector(mark)?.focus({ preventScroll: true });
  };

  const plain = (part) => {
    const copy = part.cloneNode(true);
    for (const one of copy.querySelectorAll("details[open]")) one.removeAttribute("open");
    return copy.innerHTML;
  };

  const update = async () => {
    if (!on || busy || document.hidden) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.redirected && new URL(answer.url).pathname !== location.pathname) {
        say("You are signed out: reload this page.");
        return;
      }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok || !fresh.querySelector("[data-live]")) {
        say("The page cannot be brought up to date now; it is tried again.");
        return;
      }
      for (const part of document.querySelectorAll("[data-live]")) {
        const now = fresh.getElementById(part.id);
        if (now && plain(part) !== plain(now)) swap(part, now);
      }
      say("");
    } catch {
      say("The daemon does not answer; this is what it last told.");
    } finally {
      busy = false;
    }
  };

  control.hidden = false;
  document.getElementById("refresh").hidden = true;
  label();
  control.addEventListener("click", () => {
    on = !on;
    label();
    update();
  });
  document.addEventListener("visibilitychange", update);
  setInterval(update, EVERY_MS);
})();
