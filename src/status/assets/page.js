// Asks for the status once a second, and shows what came or that nothing came.
//
// A hidden page asks nothing. A supervisor that does not answer is asked again until it does; the last picture stays,
// dimmed, so that nobody takes it for the present.

import { say, show } from "./dom.js";
import { History } from "./figures.js";
import { Picture, part } from "./view.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const TOKEN = "herdwire token";

const history = new History();
const picture = new Picture(history);
let seenAt = null;
let timer = null;
let asking = false;

/** A token in the address moves to this tab's memory, out of sight and of the browser's history. */
function takeTokenFromAddress() {
  const address = new URL(location.href);
  const token = address.searchParams.get("token");
  if (token === null) return;
  sessionStorage.setItem(TOKEN, token);
  address.searchParams.delete("token");
  window.history.replaceState(null, "", address);
}

async function ask() {
  const token = sessionStorage.getItem(TOKEN);
  document.documentElement.toggleAttribute("data-token", token !== null);
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const query = history.since === null ? "" : `?since=${history.since}`;
  const signal = AbortSignal.timeout(PATIENCE_MS);
  return fetch(`/api/v1/status${query}`, { headers, signal, cache: "no-store", credentials: "omit" });
}

async function look() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    await showAnswer(await ask());
  } catch {
    showLost("Nobody answers at this address.");
  } finally {
    asking = false;
  }
  clearTimeout(timer);
  if (document.documentElement.dataset.state !== "token") timer = setTimeout(look, EVERY_MS);
}

async function showAnswer(answer) {
  if (answer.status === 401) return askForToken();
  if (!answer.ok) return showLost("The supervisor does not answer.");
  const status = await answer.json();
  if (!history.take(status.history, status.supervisor)) return;
  seenAt = new Date();
  picture.update(status);
  enter("live");
}

function showLost(what) {
  // A moment and not an age: an alert that changed each second would be read out each second.
  const since = seenAt === null ? "" : ` What you see is from ${seenAt.toLocaleTimeString()}.`;
  say(part("lost"), `${what} Trying again every second.${since}`);
  picture.lost();
  enter("lost");
}

function askForToken() {
  show(part("token-wrong"), sessionStorage.getItem(TOKEN) !== null);
  sessionStorage.removeItem(TOKEN);
  picture.closed();
  enter("token");
  part("token-text").focus();
}

/** The one place that says what is seen in which state. */
function enter(state) {
  document.documentElement.dataset.state = state;
  show(part("lost"), state === "lost");
  show(part("token"), state === "token");
  show(part("picture"), (state === "live" || state === "lost") && seenAt !== null);
}

part("token").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, part("token-text").value);
  part("token-text").value = "";
  look();
});
document.addEventListener("visibilitychange", look);
takeTokenFromAddress();
look();
