"use strict";
// Asks the sidecar once a second what it does, and draws it. Text from outside, which
// is nothing but addresses, numbers and the sidecar's own words, is only ever set as
// textContent; the page's Content-Security-Policy forbids anything else.

const period = 1000, patience = 4000; // ms
const kept = 300_000;                 // ms of history

const $ = id => document.getElementById(id);
let order = "bytes";
let history = []; // {at, up, down, active, accepted, closed}, oldest first
let before = new Map(); // bytes of each listed connection, the last time

const scaled = (n, units, base) => {
  let i = 0;
  for (; n >= base * 0.9995 && i < units.length - 1; i++) n /= base;
  const digits = i === 0 ? (n > 0 && n < 10 && n % 1 ? 1 : 0) : n < 10 ? 1 : 0;
  return n.toFixed(digits) + units[i];
};
const bytes = n => scaled(n, [" B", " kB", " MB", " GB", " TB"], 1000);
const count = n => n < 10_000 ? n.toLocaleString("en", { maximumFractionDigits: 1 }) : scaled(n, ["", " k", " M", " G"], 1000);
const age = s => s < 60 ? Math.floor(s) + " s" : s < 3600 ? Math.floor(s / 60) + " min" : s < 86400 ? (s / 3600).toFixed(1) + " h" : (s / 86400).toFixed(1) + " d";
const words = s => s.replaceAll("half_closed", "half-closed").replaceAll("_", " ");

function element(name, attributes, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children); // strings become text nodes
  return e;
}

function drawn(name, attributes, text) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}

// ceiling is the least 1, 2 or 5 times a power of ten that is not below n.
function ceiling(n, least) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(n, least)));
  return [1, 2, 5, 10].map(f => f * ten).find(c => c >= Math.max(n, least) * 0.999);
}

// chart draws lines [class, [[time, value], ...]] from one axis: the first upwards, the
// second, if there is one, downwards.
function chart(svg, lines, label, least) {
  const width = svg.clientWidth, height = svg.clientHeight, bottom = height - 18, now = history.at(-1).at;
  const top = ceiling(Math.max(0, ...lines.flatMap(([, points]) => points.map(p => p[1]))), least);
  const axis = lines.length > 1 ? (bottom + 14) / 2 : bottom, unit = (axis - 14) / top;
  const shown = Math.min(kept, Math.max(60_000, now - history[0].at)), step = shown <= 90_000 ? 15 : shown <= 180_000 ? 30 : 60; // ms, s
  const x = t => width * (1 - (now - t) / shown);
  const parts = [], labels = []; // these above the lines
  for (const v of lines.length > 1 ? [-top, 0, top] : [0, top / 2, top]) {
    const y = axis - v * unit;
    parts.push(drawn("line", { class: "grid", x1: 0, x2: width, y1: y, y2: y }));
    if (v !== 0) labels.push(drawn("text", { x: 0, y: y - 3 }, label(Math.abs(v))));
  }
  for (let s = step; s * 1000 <= shown; s += step) {
    const at = x(now - s * 1000), text = s % 60 ? `-${s} s` : `-${s / 60} min`;
    parts.push(drawn("text", { x: at, y: height - 4, "text-anchor": at < 20 ? "start" : "middle" }, text));
  }
  parts.push(drawn("text", { x: width, y: height - 4, "text-anchor": "end" }, "now"));
  lines.forEach(([kind, points], i) => {
    if (points.length === 0) return;
    const y = v => axis - (i === 0 ? v : -v) * unit;
    const path = points.map(p => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" L");
    const [first, last] = [x(points[0][0]), x(points.at(-1)[0])].map(v => v.toFixed(1));
    parts.push(drawn("path", { class: `area ${kind}`, d: `M${first},${axis} L${path} L${last},${axis} Z` }));
    parts.push(drawn("path", { class: `line ${kind}`, d: `M${path}` }));
  });
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts, ...labels);
}

// rates are the differences of a counter, each second's.
const rates = of => history.slice(1).map((h, i) => [h.at, Math.max(0, of(h) - of(history[i])) / (h.at - history[i].at) * 1000]);

function row(cells) {
  return element("tr", {}, ...cells.map(([text, attributes]) => element("td", attributes || {}, text)));
}

const empty = (columns, text) => element("tr", {}, element("td", { class: "empty", colspan: columns }, text));

// bar is a row of a table with a bar as long as part of the whole.
function bar(name, value, whole, last, kind) {
  const stick = element("i", {});
  stick.style.width = (whole > 0 ? 100 * value / whole : 0) + "%";
  const tr = row([[name], [count(value), { class: "n" }], ["", { class: "bar" }], [count(last), { class: "n" }]]);
  tr.children[2].replaceChildren(stick);
  tr.className = value === 0 ? "none" : kind;
  return tr;
}

function showReadiness(d) {
  const r = d.readiness;
  $("state").textContent = r.ready ? "ready" : "not ready";
  $("state").className = "pill " + (r.ready ? "good" : "bad");
  $("about").textContent = `${d.mode} mode on ${d.address} · version ${d.version} · uid ${d.uid} · up ${age(d.uptime_seconds)}`;
  trouble(r.ready ? "" : [r.text || r.reason, r.cure && "What to do: " + r.cure].filter(Boolean).join("\n"));
}

function trouble(text) {
  $("trouble").hidden = !text;
  if ($("trouble").textContent !== text) $("trouble").textContent = text;
}

function showCharts(d) {
  const up = rates(h => h.up), down = rates(h => h.down);
  $("up").textContent = up.length ? bytes(up.at(-1)[1]) + "/s" : "";
  $("down").textContent = down.length ? bytes(down.at(-1)[1]) + "/s" : "";
  chart($("bytes"), [["up", up], ["down", down]], v => bytes(v) + "/s", 1000);
  $("active").textContent = `${count(d.counters.active)} of ${count(d.counters.limit)}`;
  const fresh = rates(h => h.accepted).at(-1);
  $("rate").textContent = fresh ? `${count(fresh[1])} new/s · ${count(d.counters.accepted)} since the start` : "";
  chart($("open"), [["active", history.map(h => [h.at, h.active])]], count, 5);
}

function showEndings(d) {
  const first = history[0].closed, all = Object.entries(d.counters.closed);
  const rows = all.map(([how, n]) => [how, n - (first[how] || 0), n]).filter(r => r[2] > 0).sort((a, b) => b[1] - a[1] || b[2] - a[2]);
  const most = Math.max(0, ...rows.map(r => r[1]));
  $("endings").tBodies[0].replaceChildren(...rows.length ? rows.map(([how, n, total]) => bar(how, n, most, total, how === "closed" ? "" : how.startsWith("client") || how === "drained" ? "wait" : "bad")) : [empty(4, "none yet")]);
}

function showLive(d) {
  const live = d.live, s = live.states, seconds = history.length > 1 ? (history.at(-1).at - history.at(-2).at) / 1000 : 0;
  $("states").textContent = Object.entries(s).filter(([k, n]) => n > 0 || k === "relaying").map(([k, n]) => `${count(n)} ${words(k)}`).join(" · ")
    + (live.incomplete ? " · a busy event loop did not answer" : "");
  const seen = new Map();
  const rows = live.list.map(c => {
    const key = `${c.client} ${c.destination} ${c.source}`, sum = c.bytes_up + c.bytes_down;
    seen.set(key, sum);
    const rate = before.has(key) && seconds > 0 && sum >= before.get(key) ? bytes((sum - before.get(key)) / seconds) + "/s" : "";
    const source = c.source === c.client ? "the same" : c.source || "none yet";
    const state = [c.state === "relaying" && c.blocked_by ? "" : words(c.state), c.blocked_by && "blocked by " + c.blocked_by].filter(Boolean).join(", ");
    const client = c.via && c.via !== c.client ? `${c.client} via ${c.via}` : c.client; // the client may not be known yet
    return row([[client, { class: "addr" }], [c.destination || "none yet", { class: "addr", "data-name": "to" }], [source, { class: source === c.source ? "addr" : "", "data-name": "seen as" }],
      [bytes(c.bytes_up), { class: "n", "data-name": "up" }], [bytes(c.bytes_down), { class: "n", "data-name": "down" }],
      [rate, { class: "n" }], [age(c.age_seconds), { class: "n", "data-name": "age" }], [state]]);
  });
  before = seen;
  $("live").tBodies[0].replaceChildren(...rows.length ? rows : [empty(8, "none")]);
}

// check is a line of a list: "" is good, "wait" a warning, "bad" a fault.
const check = (kind, text) => element("li", { class: kind }, text);

function showHealth(d) {
  const c = d.counters, t = d.pod.conntrack, lines = [];
  const some = (numbers, text, kind) => Object.entries(numbers).filter(([, n]) => n > 0).forEach(([name, n]) => lines.push(check(kind, text(name, count(n)))));
  const seen = { address_port: "the client's address and port", address: "the client's address and another port", none: "the pod's own address" };
  some(c.spoofs, (what, n) => `the application saw ${seen[what] || what} on ${n} connections`, "");
  some(c.dial_errors, (errno, n) => `${errno} from the application, ${n} times`, "wait");
  some(c.pauses, (why, n) => `clients had to wait ${n} times: ${why}`, "wait");
  if (t) lines.push(check(t.entries < 0.9 * t.limit ? "" : "bad", `${count(t.entries)} of ${count(t.limit)} conntrack entries`));
  if (c.log_lines_lost > 0) lines.push(check("wait", `${count(c.log_lines_lost)} log lines lost: their reader is too slow`));
  if (d.pod_error) lines.push(check("wait", d.pod_error));
  $("health").replaceChildren(...lines);
}

function showQueues(d) {
  const queues = d.pod.accept_queues, drops = d.pod.drops;
  const whose = port => d.address.endsWith(":" + port) ? ", the sidecar" : d.admin_address.endsWith(":" + port) ? ", the admin port" : "";
  $("queues").tBodies[0].replaceChildren(...queues.length ? queues.map(q => bar(q.port + whose(q.port), q.length, q.limit, q.limit, q.length < q.limit / 2 ? "" : "bad")) : [empty(4, "no listener")]);
  $("overflows").textContent = drops ? `${count(drops.listen_overflows)} connections found a queue full since the pod began` : "";
}

function showKernel(d) {
  const lines = d.routing.map(r => r.stays ? check("", `${r.family}: marked packets stay in the pod, ${r.marked}`) : check("bad", `${r.family}: ${r.error || r.marked + ", which is not the plugin's route"}`));
  const wrong = d.sysctls.filter(s => !s.ok);
  lines.push(check("", `${d.sysctls.length - wrong.length} of ${d.sysctls.length} sysctls are as the plugin sets them`));
  lines.push(...wrong.map(s => check(s.optional ? "wait" : "bad", `${s.name} is ${s.value || "missing"}, want ${s.want}`)));
  $("kernel").replaceChildren(...lines);
}

function show(d) {
  const at = Date.parse(d.time), last = history.at(-1);
  if (last && at === last.at) return;
  if (last && (at < last.at || d.counters.accepted < last.accepted)) history = []; // it has been restarted
  history.push({ at, up: d.counters.relayed_up, down: d.counters.relayed_down, active: d.counters.active, accepted: d.counters.accepted, closed: d.counters.closed });
  history = history.filter(h => h.at > at - kept - period);
  showReadiness(d);
  showCharts(d);
  showEndings(d);
  showLive(d);
  showHealth(d);
  showQueues(d);
  showKernel(d);
}

async function ask() {
  try {
    const answer = await fetch(`status?sort=${order}`, { cache: "no-store", signal: AbortSignal.timeout(patience) });
    if (!answer.ok) throw new Error(await answer.text());
    $("main").className = "";
    return await answer.json();
  } catch (e) {
    $("state").textContent = "no answer";
    $("state").className = "pill bad";
    $("main").className = "stale";
    trouble(`The sidecar does not answer (${e.message}). Is kubectl port-forward still running?`);
  }
}

async function poll() {
  if (!document.hidden) {
    const d = await ask();
    if (d) show(d);
  }
}

for (const by of ["bytes", "age"]) {
  $(`by-${by}`).addEventListener("click", () => {
    order = by;
    for (const o of ["bytes", "age"]) $(`by-${o}`).setAttribute("aria-pressed", o === by);
  });
}
setInterval(poll, period);
poll();
