"use strict";
const PERIOD = 2000;
const TONE = {
  ready: "good", active: "good", done: "good", already: "good", recovered: "good",
  starting: "busy", stopping: "busy", running: "busy", leased: "warn", unready: "warn", "rolled-back": "warn",
  durable: "good", "runtime-only": "warn", "at-risk": "bad", "data-loss": "bad", unreachable: "bad",
  degraded: "bad", failed: "bad", wedged: "bad", missing: "bad",
  open: "bad", "config-error": "bad", down: "bad", applying: "busy", outdated: "warn", stale: "warn",
};
const RESTING = ["idle", "active", "leased", "degraded", "wedged"];
const $ = (id) => document.getElementById(id);

// Everything is written with textContent: no value of the daemon is ever read as markup.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const pill = (word, tone) => el("span", { class: "pill " + (tone || TONE[word] || "calm") }, word);
const row = (...cells) => el("tr", {}, ...cells.map((c) => (c instanceof Node && c.tagName === "TD" ? c : el("td", {}, c))));
const nothing = (columns, text) => el("tr", {}, el("td", { class: "empty", colspan: columns }, text));

function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return seconds.toFixed(seconds < 1 ? 2 : 1) + " s";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h";
  return Math.round(seconds / 86400) + " days";
}
const ago = (time, now) => (!time ? "" : now - time < 10 ? "just now" : span(now - time) + " ago");
const gib = (bytes) => (bytes / 2 ** 30).toFixed(1) + " GiB";
const size = (bytes) => (bytes < 2 ** 20 ? Math.ceil(bytes / 1024) + " KiB" : bytes < 2 ** 30 ? (bytes / 2 ** 20).toFixed(1) + " MiB" : gib(bytes));

function slotCard(slot, now, models) {
  const asleep = models.filter((model) => slot.sleeping.includes(model.name));
  const off = models.filter((model) => model.off).map((model) => model.name);
  const loads = models.filter((model) => model.active && model.load_seconds).map((model) => span(model.load_seconds));
  const resting = RESTING.includes(slot.state);
  const cooling = Object.entries(slot.cooldowns).filter(([, until]) => until > now);
  return el("div", { class: "card" },
    el("h3", {}, slot.name, pill(slot.state, resting ? null : "busy")),
    el("div", { class: "big" }, slot.resident || "empty"),
    el("p", {}, "models: " + (slot.models.join(", ") || "none") + (slot.default ? "; default: " + slot.default : "")),
    asleep.length ? el("p", {}, "sleeping: " + asleep.map((m) => m.name + (m.level ? " (level " + m.level + ")" : "")).join(", ")) : "",
    off.length ? el("p", {}, "switched off: " + off.join(", ")) : "",
    loads.length ? el("p", {}, "a start takes about " + loads[0]) : "",
    slot.lease_until ? el("p", {}, "lent out for another " + span(Math.max(0, slot.lease_until - now))) : "",
    slot.change ? el("p", {}, "change " + slot.change + " is under way") : "",
    ...cooling.map(([model, until]) => el("p", {}, model + " failed; not tried again for " + span(until - now))),
    slot.cause ? el("p", { class: "bad" }, slot.cause) : "");
}

function serviceRow(service, now) {
  const name = el("td", {}, service.name, service.cause ? el("small", {}, service.cause) : "");
  const word = service.crash_loop ? pill("crash loop", "bad") : pill(service.health);
  return row(name, service.role, word, ago(service.since, now), String(service.restarts), service.unit);
}

function storeRow(store, now) {
  const state = store.state;
  const name = el("td", {}, store.name, store.durability === "durable" ? "" : el("small", {}, store.summary || store.problem));
  const backup = store.record && store.record.backup_at ? ago(store.record.backup_at, now) : "never";
  if (!state || store.problem) return row(name, pill(store.durability), "", "", "", backup);
  const aof = state.aof_enabled ? size(state.aof_current_size) + (store.proven ? "" : ", not proven") : "off";
  const rdb = (state.rdb_last_bgsave_ok ? "" : "failed, ") + (state.rdb_saves ? ago(state.rdb_last_save, now) : "not since its start");
  return row(name, pill(store.durability), String(state.keys), aof, rdb, backup);
}

function gatewayCard(gateway) {
  const absent = gateway.models.filter((model) => !model.resident).map((model) => model.model);
  return el("div", { class: "card" }, el("h3", {}, gateway.service, pill(gateway.state)),
    el("p", {}, gateway.listed.length + " models" + (absent.length ? "; absent: " + absent.join(", ") : "")),
    gateway.change ? el("p", {}, "change " + gateway.change + " is under way") : "",
    gateway.summary ? el("p", { class: "bad" }, gateway.summary) : "");
}

function gpuCard(gpu) {
  const bar = el("progress", { max: gpu.total, value: gpu.used, "aria-label": "memory used" });
  const more = gpu.details || {};
  const told = [
    typeof more.utilization === "number" ? Math.round(more.utilization * 100) + " % busy" : "",
    typeof more.temperature === "number" ? Math.round(more.temperature) + " °C" : "",
    typeof more.power === "number" ? Math.round(more.power) + " W" : ""].filter(Boolean).join(", ");
  const held = (more.throttle || []).join(", ");
  return el("div", { class: "card" }, el("h3", {}, gpu.index + ": " + gpu.name),
    el("div", { class: "big" }, gib(gpu.free) + " free"), bar, el("p", {}, gib(gpu.used) + " of " + gib(gpu.total) + " used"),
    told ? el("p", {}, told) : "", held ? el("p", {}, "held back: " + held) : "");
}

function runtimeCard(runtime) {
  const where = (model) => (model.size_vram ? gib(model.size_vram) + " on the GPU" : "on the CPU");
  return el("div", { class: "card" }, el("h3", {}, runtime.name + " " + runtime.version),
    ...runtime.models.map((model) => el("p", {}, model.name + ": " + where(model))),
    runtime.models.length ? "" : el("p", {}, "nothing loaded"));
}

function changeRow(change, now) {
  const what = change.kind + (change.target ? " to " + change.target : "") + " (" + change.slot + ")";
  const end = change.finished === null ? now : change.finished;
  const word = change.outcome === null ? pill(change.phase, "busy") : pill(change.outcome);
  const text = el("td", { class: "text" }, change.message || "", change.cause ? el("small", {}, change.cause) : "");
  return row(ago(change.created, now), what, word, span(end - change.created), text);
}

function show(status, changes) {
  const now = status.time;
  const failing = status.checks.filter((check) => !check.ok);
  const services = status.services.map((service) => serviceRow(service, now));
  $("version").textContent = status.daemon.version + (status.config.profile ? ", profile " + status.config.profile : "");
  $("state").textContent = status.ready ? "ready" : "not ready";
  $("state").className = "pill " + (status.ready ? "good" : "bad");
  $("note").textContent = failing.map((c) => c.name + ": " + (c.detail || "failed")).concat(
    status.config.valid ? [] : ["the configuration on disk is not valid; the one loaded before is in force"]).join("; ");
  $("slots").replaceChildren(...(status.slots.length ? status.slots.map((slot) => slotCard(slot, now, status.models.filter((model) => model.slot === slot.name))) : [el("p", { class: "calm" }, "no slot is configured")]));
  $("services").replaceChildren(...(services.length ? services : [nothing(6, "no service is configured")]));
  $("gateway-section").hidden = !status.gateway;
  $("gateway").replaceChildren(...(status.gateway ? [gatewayCard(status.gateway)] : []));
  $("stores-section").hidden = status.stores.length === 0;
  $("stores").replaceChildren(...status.stores.map((store) => storeRow(store, now)));
  $("gpus-section").hidden = status.gpus.gpus.length === 0;
  const runtimes = (status.runtimes || []).filter((runtime) => runtime.reachable).map(runtimeCard);
  $("gpus").replaceChildren(...status.gpus.gpus.map(gpuCard), ...runtimes);
  $("changes").replaceChildren(...(changes.length ? changes.map((change) => changeRow(change, now)) : [nothing(5, "none yet")]));
  const resident = status.slots.map((slot) => slot.resident).filter(Boolean);
  document.title = "agentd" + (resident.length ? ": " + resident.join(", ") : "");
}

async function read(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(path + ": status " + answer.status);
  return answer.json();
}

async function refresh() {
  try {
    const [status, history] = await Promise.all([read("/v1/status"), read("/v1/changes?limit=8")]);
    show(status, history.changes);
  } catch (error) {
    $("state").textContent = "no answer";
    $("state").className = "pill bad";
    $("note").textContent = "what is shown is old: " + error.message;
  }
}

let timer = 0;
async function tick() {
  window.clearTimeout(timer);
  await refresh();
  if (!document.hidden) timer = window.setTimeout(tick, PERIOD);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
tick();
