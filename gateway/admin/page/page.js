"use strict";
// All that comes from the server is written as text, never as markup.

const KEPT = "chat-gateway-token";
// Seconds in the picture: at most and at least.
const PAST = 300;
const FEWEST = 60;
const LONGEST_WAIT_MS = 15000;
// The feed speaks each second. A connection that is silent this long is dead, whatever TCP thinks.
const SILENCE_MS = 10000;

const $ = (id) => document.getElementById(id);
let token = null;
let feed = null;
let samples = [];
const drawn = new Map();

// -- small tools

function made(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined && text !== null) element.textContent = String(text);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function connection(words, mood) {
  say("connection", words);
  $("connection").className = mood;
}

/** Draws again only where something changed, so that selections and readers' places survive a second. */
function redraw(id, data, draw) {
  const said = JSON.stringify(data);
  if (drawn.get(id) === said) return;
  drawn.set(id, said);
  $(id).replaceChildren(...draw());
}

function table(id, caption, heads, rows) {
  redraw(id, [caption, heads, rows], () => {
    if (!rows.length) return [made("p", "None.", { class: "quiet" })];
    const whole = made("table");
    const head = made("tr");
    const numeric = heads.map((name, at) => at > 0 && name !== "Account" && rows.every((row) => /^[\d.,–-]+( ?(%|ms|s|MiB|KiB))?$/.test(row[at])));
    heads.forEach((name, at) => head.append(made("th", name, { scope: "col", class: numeric[at] ? "n" : "" })));
    const body = made("tbody");
    for (const row of rows) {
      const line = made("tr");
      row.forEach((cell, at) => line.append(at ? made("td", cell, { class: numeric[at] ? "n" : "" }) : made("th", cell, { scope: "row" })));
      body.append(line);
    }
    const top = made("thead");
    top.append(head);
    whole.append(made("caption", caption), top, body);
    return [whole];
  });
}

function pairs(id, rows) {
  redraw(id, rows, () => rows.map(([name, value, mood]) => {
    const pair = made("div");
    pair.append(made("dt", name), made("dd", value, { class: mood || "" }));
    return pair;
  }));
}

const known = (value) => value !== null && value !== undefined;
const count = (value) => (known(value) ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : "–");
const ms = (value) => (known(value) ? `${value < 10 ? value.toFixed(1) : Math.round(value)} ms` : "–");
const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");
const clock = (at) => (known(at) ? new Date(at * 1000).toLocaleTimeString("en-GB") : "–");
const bytes = (value) => (value >= 1048576 ? `${(value / 1048576).toFixed(1)} MiB` : `${(value / 1024).toFixed(1)} KiB`);

// -- the feed

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const reply = await fetch(path, {
    ...options,
    cache: "no-store",
    headers: { ...options.headers, authorization: `Bearer ${token}` },
  });
  if (reply.ok) return reply;
  const text = await reply.text();
  let words = text.trim();
  try {
    const said = JSON.parse(text);
    words = said.faults?.join("; ") ?? said.error ?? words;
  } catch { /* it was no JSON: the text says it */ }
  throw new Refused(reply.status, `${reply.status}: ${words}`);
}

const post = async (path, said) =>
  (await ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(said) })).json();

function* messages(text) {
  for (const block of text.split("\n\n")) {
    const data = [];
    let event = "message";
    for (const line of block.split("\n")) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      if (line.startsWith("event:")) event = line.slice(6).trim();
    }
    if (data.length) yield [event, JSON.parse(data.join("\n"))];
  }
}

async function read(reply, leave) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const timer = setTimeout(() => leave.abort(), SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    rest = (rest + value).replaceAll("\r\n", "\n");
    const end = rest.lastIndexOf("\n\n");
    if (end < 0) continue;
    for (const [event, said] of messages(rest.slice(0, end))) hear(event, said);
    rest = rest.slice(end + 2);
  }
}

function hear(event, said) {
  if (event === "past") samples = said.samples;
  if (event !== "now") return;
  if (!samples.length || samples.at(-1).at < said.sample.at) samples.push(said.sample);
  samples = samples.slice(-PAST);
  show(said);
}

async function follow() {
  const mine = {};
  feed = mine;
  for (let failures = 0; feed === mine; failures += 1) {
    let lost = "Connection lost";
    const leave = new AbortController();
    mine.leave = leave;
    try {
      const reply = await ask("live", { signal: leave.signal });
      if (feed !== mine) return leave.abort();
      enter();
      failures = 0;
      await read(reply, leave);
    } catch (error) {
      if (feed !== mine) return;
      if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
        shut(error.status === 401 ? "This token is not the listener's. Check it and try again." : error.message);
        return;
      }
      if (error instanceof Refused) lost = error.message;
    }
    if (feed !== mine) return;
    const wait = Math.min(LONGEST_WAIT_MS, 1000 * 2 ** failures);
    connection(`${lost}: these figures are old. Trying again in ${Math.round(wait / 1000)} s.`, "bad");
    await new Promise((done) => setTimeout(done, wait));
  }
}

function enter() {
  const first = $("live").hidden;
  $("door").hidden = true;
  $("live").hidden = $("sign-out").hidden = false;
  connection("Connected", "good");
  if ($("keep").checked) sessionStorage.setItem(KEPT, token);
  $("token").value = "";
  if (first) $("main").focus({ preventScroll: true });
}

function shut(words) {
  feed?.leave?.abort();
  feed = token = null;
  samples = [];
  drawn.clear();
  sessionStorage.removeItem(KEPT);
  if ($("confirm").open) $("confirm").close();
  $("live").hidden = $("sign-out").hidden = true;
  $("door").hidden = false;
  $("explained").replaceChildren();
  $("who").value = "";
  connection("Not signed in", "quiet");
  say("door-error", words);
  $("token").focus();
}

// -- what is shown each second

function show(now) {
  const { sample, totals, load, reload, shared } = now;
  say("version", now.version);
  pairs("headline", [
    ["client requests/s", count(sample.requests)],
    ["upstream requests/s", count(sample.upstream)],
    ["saved", share(sample.saved, sample.requests)],
    ["saved since start", share(totals.saved, totals.requests)],
    ["p50", ms(sample.p50_ms)],
    ["p99", ms(sample.p99_ms)],
    ["age p99", ms(sample.age_p99_ms)],
    ["streams open", count(totals.streams_open)],
  ]);
  const open = now.accounts.filter((account) => account.breaker !== "closed").map((account) => account.name);
  pairs("health", [
    ["Gateway", now.ready ? "ready" : "not ready", now.ready ? "good" : "bad"],
    ["Breaker", open.length ? `not closed: ${open.join(", ")}` : "closed", open.length ? "bad" : "good"],
    shared ? ["Redis", !shared.up ? "down" : shared.whole ? "up" : "up, not whole", shared.up && shared.whole ? "good" : "bad"] : ["Redis", "not used"],
    ["Last reload", `${reload.ok ? "ok" : "failed"}, ${clock(reload.succeeded_at)}`, reload.ok ? "good" : "bad"],
    ["Replicas", count(now.replicas)],
    ["Policies", `version ${now.policies_version}`],
  ]);
  chart();
  outcomes(now.outcomes);
  table("clients", "Busiest first; limits with what is left", ["Client", "Requests", "Per second", "Saved", "Limited", "Refused", "Streams", "Limits"],
    now.clients.map((one) => [one.name, count(one.requests), count(one.per_second), count(one.saved), count(one.limited), count(one.refused), count(one.streams),
      one.limits.map((limit) => `${limit.name} ${count(limit.remaining)} of ${count(limit.limit)}`).join(", ") || "none"]));
  table("watches", `${count(now.watches.length)} of ${count(now.watches_total)}; chats are named by their hash`, ["Chat", "Account", "Resource", "Watchers", "Age", "Trouble"],
    now.watches.map((one) => [one.chat, one.account, one.resource, count(one.watchers), known(one.age_s) ? `${one.age_s.toFixed(1)} s` : "–", one.trouble ?? "–"]));
  table("accounts", "Breaker and budget by account", ["Account", "Breaker", "Waiting", "In flight", "Pace"],
    now.accounts.map(({ name, breaker, budget }) => [name, breaker, count(budget.waiting), count(budget.in_flight), count(budget.pace)]));
  say("flights", `${count(now.flights)} flights, ${count(now.waiters)} waiters`);
  table("kept", "Kept, against its limit", ["Kind", "Used", "Limit", "Share"],
    Object.entries(now.kept).map(([kind, [used, limit]]) => [kind, bytes(used), bytes(limit), share(used, limit)]));
  say("load", `${count(load.connections)} connections, ${count(load.requests)} requests on the road, event loop ${ms(load.lag_ms)} late, up ${count(Math.round(now.uptime_s))} s`);
  table("refusals", "Newest first", ["When", "Client", "Status", "Reason", "Rule", "Resource"],
    now.refusals.map((one) => [clock(one.at), one.client, one.status, one.reason, one.rule ?? "–", one.resource]));
  say("reload", `${reload.ok ? "The configuration is in force" : "The last reload failed; what was in force stays"}, since ${clock(reload.succeeded_at)}.`);
  const troubles = [...reload.mistakes, ...reload.needs_restart.map((one) => `needs a restart: ${one}`)];
  redraw("mistakes", troubles, () => troubles.map((one) => made("li", one)));
}

function chart() {
  const highest = Math.max(1, ...samples.map((one) => Math.max(one.requests, one.upstream)));
  // A gateway that has just begun fills the picture as well.
  const span = Math.max(FEWEST, samples.length);
  const line = (name) => samples.map((one, at) => `${(600 * (span - samples.length + at)) / (span - 1)},${155 - (150 * one[name]) / highest}`).join(" ");
  const polyline = (kind, points) => {
    const drawing = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    drawing.setAttribute("class", kind);
    drawing.setAttribute("points", points);
    return drawing;
  };
  $("chart").replaceChildren(polyline("client", line("requests")), polyline("upstream", line("upstream")));
  const sum = (some, name) => some.reduce((all, one) => all + one[name], 0);
  say("chart-words", `${count(sum(samples, "requests"))} client requests, ${count(sum(samples, "upstream"))} upstream requests; at most ${count(highest)} in a second.`);
  const rows = [];
  for (let end = samples.length; end > 0; end -= 30) {
    const some = samples.slice(Math.max(0, end - 30), end);
    rows.push([`${clock(some[0].at)} to ${clock(some.at(-1).at)}`, ...["requests", "upstream", "saved", "refused", "failed"].map((name) => count(sum(some, name)))]);
  }
  table("chart-table", "By half minute, newest first", ["When", "Client requests", "Upstream requests", "Saved", "Refused", "Failed"], rows);
}

function outcomes(all) {
  const rows = Object.entries(all).sort((one, other) => other[1] - one[1]);
  if (drawn.get("bars") === JSON.stringify(rows)) return;
  drawn.set("bars", JSON.stringify(rows));
  const whole = rows.reduce((sum, [, n]) => sum + n, 0);
  table("outcomes", "Requests by outcome", ["Outcome", "Requests", "Share", "Bar"], rows.map(([name, n]) => [name, count(n), share(n, whole), ""]));
  $("outcomes").querySelectorAll("tbody td:last-child").forEach((cell, at) => {
    const label = { max: whole || 1, value: rows[at][1], "aria-label": `${rows[at][0]}: ${share(rows[at][1], whole)}` };
    cell.replaceChildren(made("meter", "", label));
  });
}

// -- what an operator does

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  say("door-error", "");
  token = $("token").value.trim();
  // What a header cannot carry would look like a lost connection.
  if (!/^[\x21-\x7e]+$/.test(token)) return shut("A token has no spaces and no letters beyond ASCII.");
  connection("Signing in", "quiet");
  feed?.leave?.abort();
  follow();
});

$("sign-out").addEventListener("click", () => shut(""));

$("theme").addEventListener("change", () => {
  if ($("theme").value) document.documentElement.dataset.theme = $("theme").value;
  else delete document.documentElement.dataset.theme;
});

function question() {
  const said = { method: $("method").value, path: $("path").value.trim() };
  const who = $("who").value.trim();
  if (who.startsWith("{")) said.claims = JSON.parse(who);
  else if (who) said.token = who;
  const lines = $("headers").value.split("\n").filter((line) => line.trim());
  if (lines.length) {
    said.headers = Object.fromEntries(lines.map((line) => {
      const at = line.indexOf(":");
      if (at < 1) throw new Error(`A header is name: value; got “${line}”.`);
      return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    }));
  }
  return said;
}

$("explain").addEventListener("submit", async (event) => {
  event.preventDefault();
  say("explain-error", "");
  $("explained").replaceChildren();
  const mine = feed;
  try {
    const said = await post("explain", question());
    if (feed !== mine) return;
    const steps = made("ol");
    for (const { step, says } of said.steps) {
      const line = made("li");
      line.append(made("strong", step), document.createTextNode(`: ${says}`));
      steps.append(line);
    }
    $("explained").append(made("p", `${said.outcome}; client ${said.client ?? "unknown"}; rule ${said.rule ?? "none"}`), steps);
    for (const [name, value] of [["Kept under", said.cache_key], ["Upstream request", said.upstream_request]]) {
      if (value) $("explained").append(made("h3", name), made("pre", JSON.stringify(value, null, 2)));
    }
  } catch (error) {
    if (feed === mine) say("explain-error", error.message);
  }
});

function chosen() {
  const what = $("what").value;
  if (what === "all") return { all: true };
  const said = { account: $("account").value.trim() };
  if (what === "chat") said.chat = $("chat").value.trim();
  return said;
}

$("what").addEventListener("change", () => {
  const what = $("what").value;
  $("account").disabled = what === "all";
  $("chat").disabled = what !== "chat";
});

$("purge").addEventListener("submit", (event) => {
  event.preventDefault();
  const said = chosen();
  const what = said.all ? "everything that is kept" : said.chat ? `what is kept of chat ${said.chat} of account ${said.account}` : `what is kept of account ${said.account}`;
  say("purged", "");
  say("confirm-words", `This drops ${what}, and what is in flight will not be kept. The next request of each goes upstream.`);
  $("confirm-all").hidden = !said.all;
  $("typed").required = Boolean(said.all);
  $("typed").pattern = "all";
  $("typed").value = "";
  $("confirm").showModal();
});

$("cancel").addEventListener("click", () => $("confirm").close());

$("confirming").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("confirm").close();
  const mine = feed;
  try {
    const { purged, shared } = await post("purge", chosen());
    if (feed !== mine) return;
    const others = known(shared) ? (shared ? " The other replicas were told." : " The other replicas could not be told.") : "";
    say("purged", `Purged: ${count(purged)}.${others}`);
  } catch (error) {
    if (feed === mine) say("purged", `Not purged: ${error.message}`);
  }
});

token = sessionStorage.getItem(KEPT);
if (token) {
  $("keep").checked = true;
  follow();
}
