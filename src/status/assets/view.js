// The picture: from a status to what stands on the page.

import { h, keyed, mark, say, show, sparkline } from "./dom.js";
import { bytes, count, duration, exact, exit, percent, plural, rate, sum, together } from "./figures.js";

export const part = (id) => document.getElementById(id);

/** Statuses that somebody should look at. */
const BAD = new Set(["errored", "waiting restart"]);

/** The whole page below its header, and the header's words. */
export class Picture {
  #history;
  #warnings = keyed(part("warnings"), (sentence) => sentence, warning);
  #tiles = tiles(part("tiles"));
  #herds;
  #panels = panels(part("panels"));

  constructor(history) {
    this.#history = history;
    this.#herds = keyed(part("herds"), (herd) => herd.name, () => herdCard(history));
  }

  update(status) {
    header(status);
    this.#warnings(status.supervisor.warnings);
    show(part("warnings"), status.supervisor.warnings.length > 0);
    this.#tiles(status, this.#history);
    this.#herds(herdsOf(status));
    show(part("empty"), status.instances.length === 0);
    show(part("tiles"), status.instances.length > 0);
    this.#panels(status);
  }

  /** Nobody answers: say so where the health stands. */
  lost() {
    health("not answering", "bad");
    document.title = "✕ Herdwire";
  }

  /** A token is asked for. */
  closed() {
    health("closed", "quiet");
    say(part("facts"), "A token is needed to look");
  }
}

function warning() {
  const element = h("p", { class: "banner" });
  return { element, update: (text) => say(element, sentence(text)) };
}

/** Herds with their apps, each with its instances. An instance whose herd has no wire yet has a card all the same. */
function herdsOf(status) {
  const herds = new Map(status.herds.map((herd) => [herd.name, { ...herd, apps: new Map() }]));
  for (const instance of status.instances) {
    if (!herds.has(instance.herd)) {
      herds.set(instance.herd, { name: instance.herd, participants: 0, memory_bytes: 0, channels: [], apps: new Map() });
    }
    const apps = herds.get(instance.herd).apps;
    if (!apps.has(instance.app)) apps.set(instance.app, { name: instance.app, instances: [] });
    apps.get(instance.app).instances.push(instance);
  }
  return [...herds.values()].filter((herd) => herd.apps.size > 0 || herd.channels.length > 0);
}

function header({ supervisor, host, instances }) {
  say(part("host"), host.name);
  say(part("facts"), `Supervisor ${supervisor.pid}, up ${duration(supervisor.uptime_ms)}`);
  say(part("version"), `Herdwire ${supervisor.version}`);
  const [word, mood] = judge(instances);
  health(word, mood);
  document.title = `${mood === "bad" ? "✕ " : ""}${word} · ${host.name} · Herdwire`;
}

function judge(instances) {
  const bad = instances.filter((one) => BAD.has(one.status)).length;
  const moving = instances.filter((one) => one.status === "launching" || one.status === "stopping").length;
  const online = instances.filter((one) => one.status === "online").length;
  if (bad > 0) return [`${bad} of ${instances.length} in trouble`, "bad"];
  if (moving > 0) return [`${moving} on the move`, "busy"];
  if (online > 0) return [online === instances.length && online > 1 ? `all ${online} online` : `${online} online`, "good"];
  return ["nothing runs", "quiet"];
}

function health(word, mood) {
  say(part("health-word"), word);
  mark(part("health"), "mood", mood);
}

function tiles(parent) {
  const tile = (title, spark) => {
    const value = h("p", { class: "value" });
    const note = h("p", { class: "note" });
    parent.append(h("div", { class: spark ? "tile wide" : "tile" }, h("h2", {}, title), value, note, ...(spark ? [spark.element] : [])));
    return (text, below, bad = false) => {
      say(value, text);
      say(note, below);
      value.classList.toggle("bad", bad);
    };
  };
  const flow = sparkline("flow", 4);
  const messages = tile("Messages", flow);
  const [online, cpu, memory, lost] = ["Online", "CPU", "Memory", "Lost"].map((title) => tile(title));
  return ({ instances, herds, host }, history) => {
    const channels = herds.flatMap((herd) => herd.channels.map((channel) => ({ herd: herd.name, ...channel })));
    const running = instances.filter((one) => one.pid !== null);
    const up = instances.filter((one) => one.status === "online").length;
    const gone = sum(channels, (one) => one.lost);
    messages(rate(sum(channels, (one) => one.rate)), `${count(sum(channels, (one) => one.published))} published so far`);
    flow.update(together(channels.map((one) => history.rate(one.herd, one.name))), history.capacity);
    online(`${up} / ${instances.length}`, plural(herds.length, "herd"));
    cpu(percent(sum(running, (one) => one.cpu_percent)), `of ${host.cpus * 100} %`);
    memory(bytes(sum(running, (one) => one.memory_bytes)), `of ${bytes(host.memory_total_bytes)}`);
    lost(count(gone), gone === 0 ? "no message missed" : "messages missed", gone > 0);
  };
}

function herdCard(history) {
  const name = h("h2");
  const note = h("p", { class: "note" });
  const apps = h("div", { class: "apps" });
  const channels = h("div", { class: "channels" });
  const chip = h("p", { class: "chip" });
  const element = h("section", { class: "card herd" }, h("header", {}, name, note, chip), h("div", { class: "body" }, apps, channels));
  const showApps = keyed(apps, (app) => app.name, () => appTable(history));
  const channelList = channelTable(history);
  channels.append(channelList.element);
  const update = (herd) => {
    say(name, herd.name);
    say(note, herdNote(herd));
    const all = [...herd.apps.values()];
    const [word, mood] = judge(all.flatMap((app) => app.instances));
    say(chip, word);
    mark(chip, "mood", mood);
    showApps(all);
    // A herd of one app usually bears its name: once is enough.
    mark(element, "alone", String(all.length === 1 && all[0].name === herd.name));
    show(channels, herd.channels.length > 0);
    channelList.update(herd);
  };
  return { element, update };
}

function herdNote(herd) {
  const wire = herd.memory_bytes === 0 ? "no wire yet" : `${bytes(herd.memory_bytes)} of rings`;
  const flow = herd.channels.length === 0 ? "no channels" : rate(sum(herd.channels, (one) => one.rate));
  return `${plural(herd.participants, "participant")} · ${wire} · ${flow}`;
}

const INSTANCE_COLUMNS = ["Instance", "Status", "Pid", "Uptime", "Restarts", "CPU", "Memory"];

function appTable(history) {
  const name = h("h3");
  const what = h("p", { class: "note path" });
  const table = h("div", { class: "table instances", role: "table" }, headRow(INSTANCE_COLUMNS));
  const body = h("div", { class: "rows", role: "rowgroup" });
  table.append(body);
  const element = h("div", { class: "app" }, h("div", { class: "title" }, name, what), table);
  const rows = keyed(body, (instance) => instance.id, () => instanceRow(history));
  const update = (app) => {
    say(name, app.name);
    const first = app.instances[0];
    say(what, [first.interpreter === "none" ? "" : first.interpreter, first.script].filter(Boolean).join(" "));
    table.setAttribute("aria-label", `Instances of ${app.name}`);
    rows(app.instances);
  };
  return { element, update };
}

function headRow(titles) {
  const cells = titles.map((title) => h("span", { role: "columnheader" }, title));
  return h("div", { class: "row head", role: "row" }, ...cells);
}

function cell(kind, ...children) {
  return h("span", { class: kind, role: "cell" }, ...children);
}

function instanceRow(history) {
  const [index, id, word] = [h("b"), h("small"), h("span")];
  const [pid, uptime, restarts] = ["pid", "uptime", "restarts"].map((kind) => cell(`number ${kind}`));
  const [cpu, memory] = [sparkline("cpu", 20), sparkline("memory", 1 << 20)];
  const [cpuNow, memoryNow] = [h("span"), h("span")];
  const detail = cell("detail");
  const status = cell("status", h("span", { class: "dot" }), word);
  const measures = [cell("measure cpu", cpu.element, cpuNow), cell("measure memory", memory.element, memoryNow)];
  const element = h("div", { class: "row", role: "row" }, cell("name", index, id), status, pid, uptime, restarts, ...measures, detail);
  const update = (one) => {
    const runs = one.pid !== null;
    mark(element, "status", one.status);
    mark(element, "runs", String(runs));
    say(index, `${one.app} ${one.index}`);
    say(id, `id ${one.id}`);
    say(word, one.status);
    say(pid, runs ? String(one.pid) : "–");
    say(uptime, runs ? duration(one.uptime_ms) : "–");
    say(restarts, exact(one.restarts));
    say(cpuNow, runs ? percent(one.cpu_percent) : "–");
    say(memoryNow, runs ? bytes(one.memory_bytes) : "–");
    cpu.update(history.cpu(one.id), history.capacity);
    memory.update(history.memory(one.id), history.capacity);
    const why = trouble(one);
    say(detail, why);
    show(detail, why !== "");
  };
  return { element, update };
}

/** Why it is not well, in a sentence; else what it says of itself. */
function trouble(one) {
  if (one.status === "errored") return sentence(one.reason ?? exit(one.last_exit));
  if (one.status === "waiting restart") return sentence(one.reason ?? exit(one.last_exit));
  return sentence(one.health?.probe ?? one.health?.status ?? "");
}

function sentence(text) {
  return text === "" ? "" : text[0].toUpperCase() + text.slice(1);
}

const CHANNEL_COLUMNS = ["Channel", "Rate", "Published", "Delivered", "Lost", "Heard by"];

function channelTable(history) {
  const body = h("div", { class: "rows", role: "rowgroup" });
  const element = h("div", { class: "table channel-list", role: "table" }, headRow(CHANNEL_COLUMNS), body);
  const rows = keyed(body, (channel) => channel.name, () => channelRow(history));
  const update = (herd) => {
    element.setAttribute("aria-label", `Channels of ${herd.name}`);
    rows(herd.channels.map((channel) => ({ herd: herd.name, ...channel })));
  };
  return { element, update };
}

function channelRow(history) {
  const name = h("b");
  const bridged = h("small", { class: "badge", title: "Crosses to other hosts" }, "bridge");
  const shown = h("small", { class: "badge", title: "Reaches browsers" }, "front");
  const flow = sparkline("flow", 4);
  const now = h("span");
  const [published, delivered, lost, heard] = ["published", "delivered", "lost", "heard"].map((kind) => cell(`number ${kind}`));
  const measure = cell("measure flow", flow.element, now);
  const element = h("div", { class: "row", role: "row" }, cell("name", name, bridged, shown), measure, published, delivered, lost, heard);
  const update = (one) => {
    say(name, one.name);
    show(bridged, one.bridged);
    show(shown, one.shown);
    say(now, rate(one.rate));
    flow.update(history.rate(one.herd, one.name), history.capacity);
    for (const [place, figure] of [[published, one.published], [delivered, one.delivered], [lost, one.lost + one.rejected]]) {
      say(place, count(figure));
      place.title = exact(figure);
    }
    lost.title = `${exact(one.lost)} lost, ${exact(one.rejected)} rejected`;
    lost.classList.toggle("bad", one.lost + one.rejected > 0);
    say(heard, exact(one.subscribers));
  };
  return { element, update };
}

function panels(parent) {
  const [bridge, front, supervisor, machine] = ["Bridge", "Front", "Supervisor", "Machine"].map((title) => panel(parent, title));
  return (status) => {
    bridge(status.bridge ? bridgeFacts(status.bridge) : [], "Off. A [redis] section in herdwire.toml joins herds on other hosts.");
    front(status.front ? frontFacts(status.front) : [], "Off. A [front] section in herdwire.toml lets browsers in.");
    supervisor(supervisorFacts(status.supervisor));
    machine(machineFacts(status.host));
  };
}

function panel(parent, title) {
  const facts = h("dl");
  const off = h("p", { class: "note" });
  parent.append(h("section", { class: "card panel" }, h("h2", {}, title), facts, off));
  const rows = keyed(facts, (fact) => fact[0], fact);
  return (all, otherwise = "") => {
    rows(all);
    show(facts, all.length > 0);
    say(off, otherwise);
    show(off, all.length === 0);
  };
}

/** A fact is `[what, value, mood, share]`; a share from 0 to 1 is drawn as a bar. */
function fact() {
  const [what, value, bar] = [h("dt"), h("dd"), h("i", { class: "bar", "aria-hidden": "true" }, h("i"))];
  const element = h("div", {}, what, value, bar);
  const update = ([word, text, mood = "", share = null]) => {
    say(what, word);
    say(value, text);
    mark(element, "mood", mood);
    show(bar, share !== null);
    if (share !== null) bar.firstElementChild.style.width = `${Math.min(100, share * 100)}%`;
  };
  return { element, update };
}

const badIf = (number) => (number > 0 ? "bad" : "");

function bridgeFacts(bridge) {
  const connected = bridge.state === "Connected";
  return [
    ["State", connected ? "connected" : "waiting for Redis", connected ? "good" : "bad"],
    ...(connected ? [] : [["Because", bridge.state.Waiting, "bad"]]),
    ["Redis", bridge.address],
    ["Sent", count(bridge.sent)],
    ["Received", count(bridge.received)],
    ["Spooled", bytes(bridge.spooled_bytes)],
    ["Dropped", count(bridge.dropped), badIf(bridge.dropped)],
    ["Missed", count(bridge.missed), badIf(bridge.missed)],
    ["Reconnects", count(bridge.reconnects)],
  ];
}

function frontFacts(front) {
  return [
    ["Browsers", exact(front.sessions)],
    ["Address", front.address],
    ["From browsers", count(front.received)],
    ["To browsers", count(front.sent)],
    ["Closed as too slow", count(front.slow_closed), badIf(front.slow_closed)],
    ["Refused", count(front.refused)],
  ];
}

function supervisorFacts(supervisor) {
  return [
    ["Pid", String(supervisor.pid)],
    ["Keeper", String(supervisor.keeper_pid)],
    ["Up", duration(supervisor.uptime_ms)],
    ["Started", supervisor.epoch === 1 ? "once" : `${exact(supervisor.epoch)} times`],
    ["Home", supervisor.home],
    ["Node", supervisor.node],
    ["Store", `${exact(supervisor.store_used)} of ${exact(supervisor.store_limit)}`, "", supervisor.store_used / supervisor.store_limit],
  ];
}

function machineFacts(host) {
  return [
    ["Name", host.name],
    ["Cores", exact(host.cpus)],
    ["Load", `${host.load_1m.toFixed(2)} of ${exact(host.cpus)}`, "", host.load_1m / host.cpus],
    ["Memory", `${bytes(host.memory_used_bytes)} of ${bytes(host.memory_total_bytes)}`, "", host.memory_used_bytes / host.memory_total_bytes],
  ];
}
