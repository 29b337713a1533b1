// The chat page: one WebSocket to the front it came from, and what it shows.
//
// To the herd:   {"type":"say","name":"Ann","text":"hi"}
// From the herd: {"type":"said","name":"Ann","text":"hi","worker":{"index":2,"pid":4711},"at":1760000000000}
//                {"type":"note","text":"worker 2 joined"}
// The front itself answers {"type":"ping"} with {"type":"pong",...}; that is how the page notices a dead connection.
"use strict";

const LINES_KEPT = 500;
const PING_EVERY_MS = 20_000;
const SILENT_AFTER_MS = 10_000;
const BACK_OFF_FIRST_MS = 250;
const BACK_OFF_MOST_MS = 10_000;

const at = (id) => document.getElementById(id);
const [state, lines, workers, form, nameField, textField, hint, latest] = [
  "state",
  "lines",
  "workers",
  "say",
  "name",
  "text",
  "hint",
  "latest",
].map(at);

/* The connection */

let socket = null;
let attempts = 0;
let retryTimer = 0;
let pingTimer = 0;
let silenceTimer = 0;

function connect() {
  clearTimeout(retryTimer);
  const url = new URL("/chat", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  // A path that asks for a token gets that of the page's own address.
  url.search = "";
  const token = new URLSearchParams(location.search).get("token");
  if (token) url.searchParams.set("token", token);

  const opened = new WebSocket(url);
  socket = opened;
  opened.onopen = () => {
    attempts = 0;
    show("connected");
    pingTimer = setInterval(ping, PING_EVERY_MS);
  };
  opened.onmessage = (event) => {
    clearTimeout(silenceTimer);
    hear(event.data);
  };
  opened.onclose = () => {
    if (opened === socket) retry();
  };
}

function retry() {
  socket = null;
  clearInterval(pingTimer);
  clearTimeout(silenceTimer);
  clearTimeout(retryTimer);
  show("reconnecting");
  // Half of it by chance, so that a thousand pages do not come back in the same moment.
  const longest = Math.min(BACK_OFF_MOST_MS, BACK_OFF_FIRST_MS * 2 ** attempts);
  attempts += 1;
  retryTimer = setTimeout(connect, longest / 2 + (Math.random() * longest) / 2);
}

function ping() {
  socket?.send('{"type":"ping"}');
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(() => {
    // Closing politely would wait for a peer that is not there.
    const dead = socket;
    retry();
    dead?.close();
  }, SILENT_AFTER_MS);
}

// A laptop that wakes up, a network that comes back: no reason to wait for the timer.
addEventListener("online", () => {
  if (socket === null) connect();
});

function show(word) {
  state.textContent = word;
  state.dataset.state = word;
  if (word === "connected") hint.textContent = "";
}

/* What is heard */

function hear(data) {
  let message;
  try {
    message = JSON.parse(data);
  } catch {
    return;
  }
  if (message?.type === "said") add(line(message));
  if (message?.type === "note") add(element("li", "note", String(message.text)));
}

function add(item) {
  const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
  lines.append(item);
  while (lines.childElementCount > LINES_KEPT) lines.firstElementChild.remove();
  if (atEnd) lines.scrollTop = lines.scrollHeight;
  else latest.hidden = false;
}

function line({ name, text, worker, at: when }) {
  const item = element("li", "line");
  item.dataset.testid = "line";
  const face = element("span", "face", (Array.from(String(name))[0] ?? "?").toUpperCase());
  face.setAttribute("aria-hidden", "true");
  face.style.setProperty("--hue", hueOf(String(name)));

  const who = element("span", "who");
  who.append(element("strong", "", String(name)), clock(when));
  if (worker) {
    who.append(badge(worker));
    count(worker);
  }
  item.append(face, who, element("span", "said", String(text)));
  return item;
}

function clock(when) {
  const date = new Date(Number(when) || Date.now());
  const time = element("time", "", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }));
  time.dateTime = date.toISOString();
  return time;
}

function badge({ index, pid }) {
  const shown = element("span", "worker");
  shown.dataset.testid = "worker";
  shown.style.setProperty("--hue", hueOfWorker(index));
  shown.append(element("b", "", `worker ${index}`), element("span", "", `pid ${pid}`));
  return shown;
}

/* Who of the herd was heard, and how often. A restarted worker keeps its index and shows its new pid. */

const heard = new Map();

function count(worker) {
  const known = heard.get(worker.index) ?? { lines: 0, item: element("li", "") };
  known.lines += 1;
  const chip = badge(worker);
  chip.append(element("span", "count", `${known.lines} ${known.lines === 1 ? "line" : "lines"}`));
  known.item.replaceChildren(chip);
  if (!heard.has(worker.index)) {
    heard.set(worker.index, known);
    const sorted = [...heard.entries()].sort(([one], [other]) => one - other);
    workers.replaceChildren(...sorted.map(([, { item }]) => item));
    at("no-workers").hidden = true;
  }
}

/* What is said */

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = textField.value.trim();
  const name = nameField.value.trim();
  if (!text || !name) return;
  if (socket?.readyState !== WebSocket.OPEN) {
    hint.textContent = "There is no connection just now. Your line stays here: send it again in a moment.";
    return;
  }
  socket.send(JSON.stringify({ type: "say", name, text }));
  hint.textContent = "";
  textField.value = "";
  textField.focus();
});

latest.addEventListener("click", () => {
  lines.scrollTop = lines.scrollHeight;
});

lines.addEventListener("scroll", () => {
  if (lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40) latest.hidden = true;
});

/* The name outlives the page, where the browser lets it. */

const remembered = {
  get: () => {
    try {
      return localStorage.getItem("name");
    } catch {
      return null;
    }
  },
  set: (name) => {
    try {
      localStorage.setItem("name", name);
    } catch {
      // A browser that keeps nothing still chats.
    }
  },
};

nameField.value = remembered.get() || `Guest ${Math.floor(Math.random() * 900) + 100}`;
nameField.addEventListener("change", () => remembered.set(nameField.value.trim()));

/* Small things */

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  // Always as text: what others write is never markup.
  if (text !== undefined) made.textContent = text;
  return made;
}

// The golden angle sets neighbours far apart.
function hueOfWorker(index) {
  return Math.round((172 + Number(index) * 137.5) % 360);
}

function hueOf(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return hash;
}

connect();
textField.focus();
