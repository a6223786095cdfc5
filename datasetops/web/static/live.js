// What other reviewers do meanwhile, and how far the review is.
import { api, get } from "./api.js";

const number = new Intl.NumberFormat("en");
const EVERY = 3000; // milliseconds between two questions to the server

export function showProgress(progress) {
  const place = document.getElementById("progress");
  if (!place || !progress) return;
  place.hidden = false;
  const set = (name, words) => {
    const at = place.querySelector(`[data-${name}]`);
    if (at && at.textContent !== words) at.textContent = words;
  };
  set("decided", number.format(progress.decided));
  set("total", number.format(progress.total));
  const minutes = progress.minutes_left;
  set("pace", progress.left === 0 ? "all decided" : minutes > 0 ? `about ${minutes < 90 ? `${Math.max(1, Math.round(minutes))} min` : `${Math.round(minutes / 60)} h`} left` : "");
  set("people", (progress.reviewers || []).length > 1 ? progress.reviewers.slice(0, 4).map((one) => `${one.name} ${number.format(one.decided)}`).join(" · ") : "");
  const bar = place.querySelector("progress");
  bar.max = Math.max(1, progress.total);
  bar.value = progress.decided;
}

// Calls `onChange({decided, holding})` whenever somebody decided something or holds something else, and
// `onProgress` with how far the review is when that has changed.
export function watch(onChange, onProgress = () => {}) {
  let entry = null;
  let held = "";
  const ask = async () => {
    if (document.hidden) return;
    try {
      const answer = await get(`${api}/since${entry === null ? "" : `?entry=${entry}`}`);
      const first = entry === null;
      const moved = !first && answer.entry !== entry;
      entry = answer.entry;
      const holding = JSON.stringify(answer.holding || {});
      if (moved) {
        const progress = await get(`${api}/progress`);
        showProgress(progress);
        onProgress(progress);
      }
      if (moved || holding !== held) onChange({ decided: first ? [] : answer.decided || [], holding: answer.holding || {} });
      held = holding;
    } catch {
      // told where a decision waits; the next question comes anyway
    }
  };
  setInterval(ask, EVERY);
  document.addEventListener("visibilitychange", ask);
  ask();
}
