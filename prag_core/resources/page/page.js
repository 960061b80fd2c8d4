// The page: documents are added, switched and removed; a question is answered in every mode.
"use strict";

const $ = (id) => document.getElementById(id);
const known = new Map(); // document id -> its list item
const EXAMPLE = {
  title: "Tarnmoor observatory",
  text: "The Tarnmoor observatory stands on a hill above the village of Eskerby. It was built in 1887 by the " +
    "clockmaster Odile Ferrant, who paid for its brass telescope with a prize she won in Lisbon. Since 1962 " +
    "the observatory has measured the height of noctilucent clouds, and its night watch is kept by volunteers.",
};
const MODES = [
  ["Closed book", "nothing but the question", { mode: "closed_book" }],
  ["In context", "the text in the prompt", { mode: "in_context" }],
  ["Generated adapter", "no text in the prompt", { mode: "parametric", path: "generated" }],
  ["Trained adapter", "no text in the prompt", { mode: "parametric", path: "trained" }],
  ["Combine", "generated adapter and text", { mode: "combine", path: "generated" }],
];
const NOTES = 3; // that are shown of one addition
let after = "";

class RequestError extends Error {}

async function request(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch {
    throw new RequestError("The server does not answer. Is it running?");
  }
  if (reply.ok) return reply;
  if (reply.status === 401) $("key-form").hidden = false;
  const body = await reply.json().catch(() => ({}));
  throw new RequestError(body.error?.message ?? `The server answered with status ${reply.status}.`);
}

const json = async (path, options) => (await request(path, options)).json();
const send = (path, body) =>
  json(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

function report(error) {
  if (!(error instanceof RequestError)) console.error(error);
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function attempt(action) {
  return async (event) => {
    event?.preventDefault();
    $("error").hidden = true;
    try {
      await action(event);
    } catch (error) {
      report(error);
    }
  };
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function show(item) {
  const node = known.get(item.id) ?? $("document-template").content.firstElementChild.cloneNode(true);
  const fresh = !known.has(item.id);
  const name = item.title || `Document ${item.id.slice(0, 8)}`;
  node.querySelector("strong").textContent = name;
  const seconds = item.seconds >= 1 ? item.seconds.toFixed(1) : item.seconds.toFixed(2);
  node.querySelector(".facts").textContent = item.problem ||
    `${item.path} in ${seconds} s, ${size(item.bytes)}, from ${item.characters} characters`;
  node.querySelector(".train").hidden = item.path === "trained";
  if (fresh) {
    known.set(item.id, node);
    node.dataset.id = item.id;
    const box = node.querySelector("input");
    box.addEventListener("change", () => node.classList.toggle("off", !box.checked));
    node.querySelector(".remove").setAttribute("aria-label", `Remove ${name}`);
    node.querySelector(".remove").addEventListener("click", attempt(() => remove(item.id)));
    node.querySelector(".train").setAttribute("aria-label", `Train ${name}`);
    node.querySelector(".train").addEventListener("click", attempt(() => train(item.id)));
    $("documents").append(node);
  }
  $("none").hidden = known.size > 0;
  if (!item.problem) picture(item.id, node).catch(report); // it has no adapter to draw
}

async function picture(id, node) {
  const { data } = await json(`/v1/documents/${id}/norms`);
  const highest = Math.max(...data.map((row) => row.norm), 1e-9);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${data.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  data.forEach((row, place) => {
    const bar = document.createElementNS(svg.namespaceURI, "rect");
    const height = Math.max(row.norm / highest, 0.02);
    for (const [key, value] of Object.entries({ x: place + 0.08, y: 1 - height, width: 0.84, height })) {
      bar.setAttribute(key, value);
    }
    const title = document.createElementNS(svg.namespaceURI, "title");
    title.textContent = `layer ${row.layer} ${row.module}: ${row.norm}`;
    bar.append(title);
    svg.append(bar);
  });
  const box = node.querySelector(".layers");
  const layers = [...new Set(data.map((row) => row.layer))];
  box.setAttribute("aria-label", `Size of the update in layers ${layers.join(", ")}`);
  box.replaceChildren(svg);
}

const listed = (limit, after) => json(`/v1/documents?limit=${limit}&after=${encodeURIComponent(after)}`);

async function list() {
  const page = await listed(50, after);
  page.data.forEach(show);
  after = page.data.at(-1)?.id ?? after;
  $("more").hidden = !page.has_more;
}

function added(reply) {
  reply.data.forEach((item) => {
    show(item);
    $("documents").prepend(known.get(item.id));
  });
  const count = reply.data.length;
  const name = (id) => known.get(id)?.querySelector("strong").textContent ?? id.slice(0, 8);
  const notes = (reply.notes ?? []).map(({ id, note }) => `${name(id)}: ${note}.`);
  const more = notes.length > NOTES ? [`And ${notes.length - NOTES} more notes.`] : [];
  const said = count === 1 ? "The document became an adapter." : `${count} documents became adapters.`;
  $("status").textContent = [said, ...notes.slice(0, NOTES), ...more].join(" ");
}

async function add() {
  if (!$("text").value.trim()) throw new RequestError("The document has no text yet.");
  $("add").disabled = true;
  $("status").textContent = "Making the adapter …";
  try {
    added(await send("/v1/documents", { title: $("title").value, text: $("text").value }));
    $("add-form").reset();
  } catch (error) {
    $("status").textContent = "";
    throw error;
  } finally {
    $("add").disabled = false;
  }
}

async function upload(files) {
  if (!files.length) return;
  const body = new FormData();
  for (const file of files) body.append("files", file);
  $("status").textContent = "Reading files …";
  try {
    added(await json("/v1/documents/upload", { method: "POST", body }));
  } catch (error) {
    $("status").textContent = "";
    after = "";
    await list().catch(() => {}); // what came before the document that failed is there
    throw error;
  } finally {
    $("file").value = "";
  }
}

function drop(id) {
  known.get(id)?.remove();
  known.delete(id);
  $("none").hidden = known.size > 0;
}

// The server's documents in order of their ids, as many as a question may name, and whether there
// are more.
async function present() {
  const rows = [];
  let page;
  do {
    page = await listed(1000, rows.at(-1)?.id ?? "");
    rows.push(...page.data);
  } while (page.has_more && rows.length < 10000);
  return [rows, page.has_more];
}

async function remove(id) {
  await json(`/v1/documents/${id}`, { method: "DELETE" });
  drop(id);
  $("status").textContent = "Removed: the model no longer knows it.";
}

async function train(id) {
  const node = known.get(id);
  const bar = node.querySelector("progress");
  const button = node.querySelector(".train");
  button.disabled = true;
  try {
    let job = await send("/v1/jobs", { document_ids: [id] });
    bar.hidden = false;
    while (["queued", "running"].includes(job.status)) {
      bar.value = job.progress;
      await new Promise((resolve) => setTimeout(resolve, 500));
      job = await json(`/v1/jobs/${job.id}`);
    }
    if (job.status !== "succeeded") throw new RequestError(`The training ${job.status}: ${job.error}`);
  } finally {
    bar.hidden = true;
    button.disabled = false;
  }
  if (known.has(id)) show(await json(`/v1/documents/${id}`));
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answer(body, node) {
  const began = performance.now();
  const text = node.querySelector(".text");
  let first, last, documents = [], notes = [];
  try {
    const reply = await request("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    });
    for await (const event of events(reply)) {
      if (event.error) throw new RequestError(event.error.message);
      const piece = event.choices[0]?.delta.content ?? "";
      if (piece) first ??= performance.now();
      text.textContent += piece;
      documents = event.documents ?? documents;
      notes = event.notes ?? notes;
      last = event.usage ?? last;
    }
    const shown = documents.map((row) => row.title || row.id.slice(0, 8)).join(", ");
    const seconds = ((performance.now() - began) / 1000).toFixed(2);
    const start = first ? `first text after ${((first - began) / 1000).toFixed(2)} s, ` : "";
    node.querySelector(".facts").textContent =
      `${start}${seconds} s in all, ${last?.prompt_tokens ?? "?"} + ${last?.completion_tokens ?? "?"} tokens` +
      (shown ? `, from ${shown}` : "");
    node.querySelector(".notes").textContent = notes.join(" ");
  } catch (error) {
    node.classList.add("failed");
    text.textContent = error.message;
    if (!(error instanceof RequestError)) console.error(error);
  }
}

async function ask() {
  $("answers").replaceChildren();
  $("ask").disabled = true;
  try {
    const off = new Set([...known.keys()].filter((id) => !known.get(id).querySelector("input").checked));
    const [there, more] = await present();
    const ids = new Set(there.map((item) => item.id));
    for (const id of known.keys()) {
      // What another page or program removed.
      if (!ids.has(id) && !(more && id > there.at(-1).id)) drop(id);
    }
    const on = there.filter((item) => !off.has(item.id));
    await Promise.all(asked(on, on.length < there.length, more));
  } finally {
    $("ask").disabled = false;
  }
}

// The question in every mode, a promise of each that has documents: all, or those `on` by name.
function asked(on, byName, more) {
  const trained = on.filter((item) => item.path === "trained");
  const messages = [{ role: "user", content: $("question").value }];
  const k = Number($("k").value) || 1;
  return MODES.map(([name, hint, settings]) => {
    const node = $("answer-template").content.firstElementChild.cloneNode(true);
    node.querySelector("h3").textContent = name;
    node.querySelector(".hint").textContent = hint;
    $("answers").append(node);
    if (settings.mode !== "closed_book" && !on.length) {
      node.querySelector(".facts").textContent = "no document is switched on";
      return null;
    }
    if (settings.path === "trained" && !trained.length) {
      node.querySelector(".facts").textContent = "no document is trained yet: press Train";
      return null;
    }
    const rows = settings.path === "trained" ? trained : on;
    const named = settings.mode !== "closed_book" && (byName || rows === trained);
    const among = named ? { among: rows.map((item) => item.id) } : {};
    if (named && more) node.querySelector(".hint").textContent += " (of the first 10,000 documents)";
    return answer({ messages, k, ...settings, ...among }, node);
  });
}

$("add-form").addEventListener("submit", attempt(add));
$("ask-form").addEventListener("submit", attempt(ask));
$("file").addEventListener("change", attempt(() => upload($("file").files)));
$("more").addEventListener("click", attempt(list));
$("example").addEventListener("click", () => {
  $("title").value = EXAMPLE.title;
  $("text").value = EXAMPLE.text;
  $("question").value = "Who built the Tarnmoor observatory?";
});
$("key-form").addEventListener("submit", attempt(async () => {
  sessionStorage.setItem("key", $("key").value);
  $("key-form").hidden = true;
  await start();
}));
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  $("text").addEventListener(name, (event) => {
    if (name !== "dragleave") event.preventDefault();
    $("text").classList.toggle("over", over);
    if (name === "drop") attempt(() => upload(event.dataTransfer.files))();
  });
}

async function start() {
  $("model").textContent = (await json("/v1/models")).data[0].id;
  await list();
}
attempt(start)();
