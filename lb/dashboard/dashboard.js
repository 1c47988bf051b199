// The dashboard: asks the admin API each second and draws what it says.  No dependencies, nothing from elsewhere.

const EVERY_MS = 1000;
const PATIENCE_MS = 4000;      // an answer that takes longer counts as none
const SLOWEST_RETRY_MS = 5000;
const KEEP_S = 300;
const SPARK = 60;              // samples in a node's small plot
const MANY = 12;               // more nodes than that are shown with less of each
const TOKEN = "flotilla-token";

const $ = (id) => document.getElementById(id);

// --- asking ---------------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

async function ask(path, method = "GET") {
  const headers = { "X-Flotilla": "1" };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method, headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body.error ?? `${answer.status} ${answer.statusText}`);
  return body;
}

async function askForToken(again) {
  const dialog = $("token-dialog");
  if (again) $("token-text").textContent = "That token was not accepted. Look for lb.admin_token in the configuration.";
  const closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.showModal();
  await closed;
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
}

// --- words and numbers ----------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const number = (value) => (value == null ? "–" : value >= 100000 ? short.format(value) : whole.format(value));
const rate = (value) => (value == null ? "–" : value > 0 && value < 10 ? few.format(value) : number(value));
const counted = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;
const mebibytes = (bytes) => (bytes == null ? "–" : `${number(bytes / 2 ** 20)} MiB`);
const milliseconds = (ms) => (ms == null ? "–" : ms < 10 ? few.format(ms) : number(ms));

function duration(seconds) {
  if (seconds == null) return "–";
  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const parts = [];
  let left = Math.floor(seconds);
  for (const [unit, size] of units) {
    const count = Math.floor(left / size);
    left %= size;
    if (count || parts.length || unit === "s") parts.push(`${count}${unit}`);
  }
  return parts.slice(0, 2).join(" ");
}

// --- building -------------------------------------------------------------------------------------------------------

const NS = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const el = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(NS, tag), attributes, children);

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;  // what has not changed is not read out again, nor laid out
}
function hint(node, text, whole = text) {  // what is cut short is whole in the tooltip
  say(node, text);
  if (node.title !== whole) node.title = whole;
}
function state(node, value) {
  if (node.dataset.state !== value) node.dataset.state = value;
}
function badge() {
  const text = el("span");
  const node = el("span", { class: "badge" }, el("span", { class: "dot", "aria-hidden": "true" }), text);
  return { node, show: (value, words = value.replace("_", " ")) => { state(node, value); say(text, words); } };
}

// --- plots ----------------------------------------------------------------------------------------------------------

const samples = [];  // {at, connections, messages_in_per_s, messages_out_per_s, loop_lag_ms}, the oldest first

function remember(sample) {
  if (!sample || (samples.length && sample.at <= samples.at(-1).at)) return;
  samples.push(sample);
  while (samples[0].at < sample.at - KEEP_S) samples.shift();
}

function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((top) => top >= value * 1.02) ?? 10 * power;
}

class Plot {
  constructor(title, unit, format, lines, least = 0) {
    Object.assign(this, { title, unit, format, lines, least, hover: null });
    this.legend = el("p", { class: "legend" });
    this.values = lines.map((line) => {
      const value = el("b", {}, "–");
      this.legend.append(el("span", {}, ...(line.label ? [el("i", { class: line.tone }), `${line.label} `] : []), value));
      return value;
    });
    this.canvas = svg("svg", { role: "img", tabindex: "0" });
    this.node = el("div", { class: "plot" }, el("header", {}, el("h2", {}, title), this.legend), this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("blur", () => this.point(null));
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -10, ArrowRight: 10 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.point(Math.min(this.right, Math.max(this.left, (this.hover ?? this.right) + step)));
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  point(x) {
    this.hover = x;
    this.draw();
  }

  draw() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!width) return;
    const [left, right, top, bottom] = [0.5, width - 1, 6, height - 18];
    Object.assign(this, { left, right });
    const end = samples.at(-1)?.at ?? 0;
    const most = ceiling(Math.max(this.least, ...samples.flatMap((s) => this.lines.map((line) => s[line.key]))));
    const x = (at) => right - ((end - at) / KEEP_S) * (right - left);
    const y = (value) => bottom - (value / most) * (bottom - top);
    const parts = [];
    const labels = [];
    for (const share of [0, 0.5, 1]) {
      parts.push(svg("line", { class: "grid", x1: left, x2: right, y1: y(most * share), y2: y(most * share) }));
      if (share) labels.push(svg("text", { x: left + 2, y: y(most * share) + 13 }, `${this.format(most * share)}${this.unit}`));
    }
    for (const [minutes, anchor] of [[5, "start"], [2.5, "middle"], [0, "end"]]) {
      const label = minutes ? `${minutes} min ago` : "now";
      labels.push(svg("text", { x: x(end - minutes * 60), y: height - 4, "text-anchor": anchor }, label));
    }
    if (samples.length < 2) {
      labels.push(svg("text", { class: "none", x: width / 2, y: (top + bottom) / 2 + 4 }, "Waiting for the first samples…"));
    }
    for (const line of samples.length < 2 ? [] : this.lines) {
      const path = samples.map((s, i) => `${i ? "L" : "M"}${x(s.at).toFixed(1)} ${y(s[line.key]).toFixed(1)}`).join("");
      parts.push(svg("path", { class: `area ${line.tone}`, d: `${path}V${bottom}H${x(samples[0].at).toFixed(1)}Z` }));
      parts.push(svg("path", { class: `curve ${line.tone}`, d: path, fill: "none" }));
    }
    let shown = samples.at(-1);
    if (this.hover !== null && samples.length > 1) {
      const at = end - ((right - this.hover) / (right - left)) * KEEP_S;
      shown = samples.reduce((best, s) => (Math.abs(s.at - at) < Math.abs(best.at - at) ? s : best));
      parts.push(svg("line", { class: "hair", x1: x(shown.at), x2: x(shown.at), y1: top, y2: bottom }));
      labels.push(svg("text", {
        x: x(shown.at), y: top + 9, dx: x(shown.at) > width / 2 ? -6 : 6,
        "text-anchor": x(shown.at) > width / 2 ? "end" : "start",
      }, clock.format(shown.at * 1000)));
    }
    this.canvas.replaceChildren(...parts, ...labels);
    this.lines.forEach((line, i) => say(this.values[i], shown ? `${this.format(shown[line.key])}${this.unit}` : "–"));
    const words = this.lines.map((line) => `${line.label} ${shown ? this.format(shown[line.key]) : "unknown"}${this.unit}`);
    const when = this.hover === null || !shown ? "now" : `at ${clock.format(shown.at * 1000)}`;
    this.canvas.setAttribute("aria-label", `${this.title}, ${when}: ${words.join(", ")}`);
  }
}

const plots = [
  new Plot("Connections", "", number, [{ key: "connections", tone: "one", label: "" }], 4),
  new Plot("Messages per second", "", rate, [
    { key: "messages_in_per_s", tone: "one", label: "in" }, { key: "messages_out_per_s", tone: "two", label: "out" },
  ], 4),
  new Plot("Slowest event loop", " ms", milliseconds, [{ key: "loop_lag_ms", tone: "three", label: "" }], 10),
];
$("plots").append(...plots.map((plot) => plot.node));

// --- nodes ----------------------------------------------------------------------------------------------------------

const cards = new Map();

class Card {
  constructor(name) {
    this.name = name;
    this.badge = badge();
    this.where = el("p", { class: "where" });
    this.why = el("p", { class: "why" });
    this.rates = [];
    this.spark = svg("svg", { class: "spark", "aria-hidden": "true", preserveAspectRatio: "none", viewBox: `0 0 ${SPARK - 1} 32` });
    this.values = {};
    const facts = [
      ["connections", "Connections", "lead"], ["messages", "Messages/s", "lead"], ["lag", "Loop lag", "lead"],
      ["cpu", "CPU", ""], ["memory", "Memory", ""], ["uptime", "Up for", ""],
    ].map(([key, label, tone]) => {
      this.values[key] = el("dd", { class: tone, "data-testid": `node-${key}` }, "–");
      return el("div", {}, el("dt", {}, label), this.values[key]);
    });
    this.path = el("span");
    this.button = el("button", { type: "button", "data-testid": "drain" });
    this.button.addEventListener("click", () => this.act());
    this.node = el("li", { class: "node", "data-node": name, "data-testid": "node" },
      el("div", { class: "node-head" }, el("div", {}, el("h3", { title: name }, name), this.where), this.badge.node),
      this.why, el("dl", {}, ...facts), this.spark,
      el("div", { class: "node-foot" }, this.path, this.button));
  }

  show(node) {
    this.last = node;
    this.badge.show(node.state);
    state(this.node, node.state);
    const address = `${node.host}:${node.port}`;
    const facts = [address === node.name ? "" : address, node.pid == null ? "" : `pid ${node.pid}`];
    hint(this.where, facts.filter(Boolean).join(" · "));
    hint(this.why, `${sentence(node.reason)} · for ${duration(node.since_s)}${leaving(node)}`);
    const messages = node.messages_in_per_s == null ? null : node.messages_in_per_s + node.messages_out_per_s;
    say(this.values.connections, number(node.connections));
    say(this.values.messages, rate(messages));
    say(this.values.lag, node.loop_lag_ms == null ? "–" : `${milliseconds(node.loop_lag_ms)} ms`);
    say(this.values.cpu, node.cpu_percent == null ? "–" : `${number(node.cpu_percent)} %`);
    say(this.values.memory, mebibytes(node.memory_bytes));
    say(this.values.uptime, duration(node.uptime_s));
    say(this.path, node.path === "handoff" ? "Sockets are handed over" : "Reached through a tunnel");
    this.plot(messages);
    const ordered = node.drain !== null;
    say(this.button, ordered ? "Undrain" : "Drain");
    this.button.setAttribute("aria-label", `${ordered ? "Undrain" : "Drain"} ${node.name}`);
    const useless = !ordered && (node.state === "down" || node.state === "draining");
    this.button.hidden = useless && document.activeElement !== this.button;
  }

  plot(messages) {  // the last minute of its messages, as seen since this page was opened
    this.rates.push(messages ?? 0);
    if (this.rates.length > SPARK) this.rates.shift();
    const most = Math.max(1, ...this.rates);
    const first = SPARK - this.rates.length;
    const points = this.rates.map((value, i) => `${first + i} ${(31 - (value / most) * 29).toFixed(1)}`);
    this.spark.replaceChildren(
      svg("path", { class: "area", d: `M${points.join("L")}V32H${first}Z` }),
      svg("path", { class: "curve", "vector-effect": "non-scaling-stroke", d: `M${points.join("L")}` }));
  }

  async act() {
    if (this.button.ariaDisabled === "true") return;
    const draining = this.last.drain === null;
    if (draining && !(await confirmed(this.last))) return;
    this.button.ariaDisabled = "true";  // not `disabled`: whoever pressed it with the keyboard would lose the place
    try {
      await ask(`api/nodes/${encodeURIComponent(this.name)}/${draining ? "drain" : "undrain"}`, "POST");
      complain("");
    } catch (problem) {
      complain(`${this.name} was not ${draining ? "drained" : "taken back"}: ${problem.message}`);
    }
    this.button.ariaDisabled = "false";
    await look();
  }
}

function leaving(node) {
  if (node.state !== "draining" || !node.drain || !node.connections) return "";
  const until = (node.drain.since + node.drain.drain_s) * 1000;
  return until > Date.now() ? ` · clients may stay until ${clock.format(until)}` : " · its clients are sent elsewhere";
}

const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "No reason given");

async function confirmed(node) {
  const dialog = $("drain-dialog");
  say($("drain-title"), `Drain ${node.name}?`);
  say($("drain-text"), node.connections
    ? `It takes no new clients. Its ${counted(node.connections, "client")} may stay for the drain time, and are then sent to other nodes little by little.`
    : "It takes no new clients until you undrain it.");
  dialog.returnValue = "no";
  const closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.showModal();
  await closed;
  return dialog.returnValue === "yes";
}

function showNodes(nodes) {
  const names = new Set(nodes.map((node) => node.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) { card.node.remove(); cards.delete(name); }
  }
  nodes.forEach((node, i) => {
    let card = cards.get(node.name);
    if (!card) cards.set(node.name, (card = new Card(node.name)));
    card.show(node);
    if ($("nodes").children[i] !== card.node) $("nodes").insertBefore(card.node, $("nodes").children[i] ?? null);
  });
  $("nodes").classList.toggle("many", nodes.length > MANY);
  $("no-nodes").hidden = nodes.length > 0;
}

// --- the rest -------------------------------------------------------------------------------------------------------

const isDeaf = (redis) => redis.state === "ok" && redis.bus_ms == null;

function showFigures(view) {
  const { totals, nodes, redis, sample } = view;
  say($("now-connections"), number(totals.connections));
  say($("now-users"), counted(totals.users, "user"));
  say($("now-messages"), sample ? rate(sample.messages_in_per_s + sample.messages_out_per_s) : "–");
  say($("now-direction"), sample ? `${rate(sample.messages_in_per_s)} in · ${rate(sample.messages_out_per_s)} out` : "");
  const ready = nodes.filter((node) => node.state === "ready").length;
  $("now-nodes").replaceChildren(`${ready}`, el("span", { class: "of" }, ` of ${nodes.length}`));
  state($("now-nodes"), ready === nodes.length ? "" : ready ? "away" : "failing");
  const others = [...new Set(nodes.map((node) => node.state))].filter((name) => name !== "ready")
    .map((name) => `${nodes.filter((node) => node.state === name).length} ${name}`);
  const unready = others.length > 2 ? `${nodes.length - ready} not ready` : others.join(" · ");
  hint($("now-states"), unready || (nodes.length ? "All ready" : "None known"), others.join(", "));
  const slow = nodes.filter((node) => node.loop_lag_ms != null).sort((a, b) => b.loop_lag_ms - a.loop_lag_ms)[0];
  say($("now-lag"), milliseconds(slow?.loop_lag_ms));
  hint($("now-lag-node"), slow ? `Slowest node: ${slow.name}` : "No node says");
  const deaf = isDeaf(redis);
  say($("now-redis"), deaf ? "Deaf" : { ok: "OK", away: "Away", none: "None" }[redis.state]);
  state($("now-redis"), redis.state === "away" || deaf ? "failing" : redis.state === "ok" ? "ok" : "");
  say($("now-redis-detail"), {
    ok: redis.bus_ms == null ? "Nothing comes through the bus" : `Bus: ${milliseconds(redis.bus_ms)} ms`,
    away: "Messages stay on their nodes",
    none: "Nodes are not connected",
  }[redis.state]);
}

function showBalancer(view) {
  const facts = {
    "HTTP exchanges": number(view.totals.exchanges),
    "Turned away": number(Object.values(view.totals.rejected).reduce((sum, count) => sum + count, 0)),
    "Failed connects": number(view.totals.connect_failures),
    "Handed over": number(view.totals.handoffs),
    "Tunnelled": number(view.totals.tunnels),
    "Registry": view.redis.read_ms == null ? "–" : `${milliseconds(view.redis.read_ms)} ms`,
  };
  $("balancer").replaceChildren(...Object.entries(facts).map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))));
  const ours = new Map(view.workers.map((worker) => [worker.pid, worker]));
  const nodes = new Map(view.nodes.map((node) => [node.pid, node]));
  const rows = view.children.length ? view.children : view.workers.map((w) => ({ name: `worker-${w.index}`, pid: w.pid, state: "ready" }));
  $("workers").replaceChildren(...rows.map((child) => {
    const shown = badge();
    shown.show(child.state, child.state === "ready" ? "running" : undefined);
    const worker = ours.get(child.pid);
    const node = nodes.get(child.pid);
    const cpu = worker ? usage(worker) : node?.cpu_percent;
    const lag = worker?.loop_lag_ms ?? node?.loop_lag_ms;
    return el("tr", {}, el("th", { scope: "row" }, child.name), el("td", {}, shown.node),
      el("td", {}, cpu == null ? "–" : `${number(cpu)} %`), el("td", {}, mebibytes(worker?.memory_bytes ?? node?.memory_bytes)),
      el("td", {}, lag == null ? "–" : `${milliseconds(lag)} ms`));
  }));
}

const usages = new Map();

function usage(worker) {  // per cent of one core, between the last two looks at this process
  const before = usages.get(worker.pid);
  if (!before || worker.uptime_s > before.uptime_s + 0.5) {
    const percent = before ? (100 * (worker.cpu_seconds - before.cpu_seconds)) / (worker.uptime_s - before.uptime_s) : null;
    usages.set(worker.pid, { ...worker, percent });
  }
  return usages.get(worker.pid).percent;
}

function showEvents(events) {
  const rows = events.slice(0, 100).map((event) => {
    const shown = badge();
    shown.show(event.state || "notice");
    const when = new Date(event.at * 1000);
    return el("li", {}, el("time", { datetime: when.toISOString(), title: when.toLocaleString() }, clock.format(when)), shown.node,
      el("span", { class: "what" }, el("b", {}, event.node || sentence(event.kind)), " ", el("span", { class: "reason" }, event.reason)));
  });
  const key = events.length ? `${events.length} ${events[0].at}` : "";
  if ($("events").dataset.key !== key) $("events").replaceChildren(...rows);
  $("events").dataset.key = key;
  $("no-events").hidden = rows.length > 0;
}

let complaint = "";

function complain(text) {
  complaint = text;
}

function showStatus(link, text, problems = [], warned = false) {
  document.body.dataset.link = { lost: "lost", waiting: "waiting" }[link] ?? "up";
  state($("status"), link);
  say($("status-text"), text);
  const shown = [...problems, ...(complaint ? [complaint] : [])];
  const key = shown.join("\n");
  if ($("notice").dataset.key !== key) {
    $("notice").dataset.key = key;
    $("notice").replaceChildren(shown.length === 1 ? shown[0] : el("ul", {}, ...shown.map((line) => el("li", {}, line))));
  }
  state($("notice"), warned && !complaint ? "waiting" : "failing");
  $("notice").hidden = shown.length === 0;
}

// --- the loop -------------------------------------------------------------------------------------------------------

let failures = 0;
let caughtUp = false;  // whether the samples are those that the balancer has
let seenAt = null;     // when it answered last

async function look() {
  if (!caughtUp) {
    const columns = await ask("api/history");
    samples.length = 0;
    columns.at.forEach((_, i) => remember(Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[i]]))));
    caughtUp = true;
  }
  const [view, log] = await Promise.all([ask("api/overview"), ask("api/events")]);
  remember(view.sample);
  document.title = `${view.status === "ok" ? "" : "⚠ "}${view.cluster} · Flotilla`;
  say($("cluster"), `Cluster ${view.cluster}`);
  say($("version"), `Flotilla ${view.version}`);
  showFigures(view);
  plots.forEach((plot) => plot.draw());
  showNodes(view.nodes);
  showEvents(log.events);
  showBalancer(view);
  const unready = view.nodes.some((node) => node.state !== "ready");
  const well = view.status === "ok";
  const apart = view.redis.state === "away" ? "Redis is away" : isDeaf(view.redis) ? "Redis is deaf" : "";
  const text = !well ? "Needs attention" : apart || (unready || view.warnings.length ? "Serving" : "All is well");
  seenAt = Date.now();
  showStatus(well && apart ? "away" : view.status, text, [...view.problems, ...view.warnings].map(sentence), well);
}

async function run() {
  try {
    await look();
    failures = 0;
  } catch (problem) {
    failures += 1;
    caughtUp = false;
    if (problem instanceof Refused && problem.status === 401) {
      showStatus("waiting", "Token needed");
      await askForToken(sessionStorage.getItem(TOKEN) !== null);
    } else if (problem instanceof Refused) {
      showStatus("lost", "Not answered", [sentence(problem.message)]);
    } else {
      console.debug(problem);
      const old = seenAt ? `What you see is from ${clock.format(seenAt)}.` : "It has not answered yet.";
      showStatus("lost", "Connection lost", [`The balancer does not answer. ${old} Trying again.`]);
    }
  }
  const delay = failures ? Math.min(SLOWEST_RETRY_MS, EVERY_MS * 1.5 ** (failures - 1)) : EVERY_MS;
  setTimeout(whenSeen, delay);
}

function whenSeen() {  // a tab that nobody looks at costs nothing, and catches up when somebody does
  if (!document.hidden) return run();
  caughtUp = false;
  document.addEventListener("visibilitychange", whenSeen, { once: true });
}

run();
