// The chat page: what the user does, and what is shown.

import { answer, Refused } from "./answer.js";
import { load } from "./load.js";
import { node, show } from "./text.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
let messages = [];
let model = null;
let running = null; // the AbortController of the answer under way

// ---- asking --------------------------------------------------------------------------------

async function ask(question) {
  $("hint").hidden = true;
  article("user", "You", question);
  const talk = messages;
  talk.push({ role: "user", content: question });
  const shown = new Answer();
  running = new AbortController();
  busy(true);
  try {
    for await (const event of answer(request(), $("api_key").value, running.signal)) shown.take(event);
  } catch (error) {
    shown.fail(error);
  } finally {
    running = null;
    busy(false);
    shown.end();
  }
  if (shown.text || shown.reasoning) talk.push({ role: "assistant", content: shown.text });
  else if (talk === messages) giveBack(question);
}

function request() {
  const system = $("system").value.trim();
  const opening = system ? [{ role: "system", content: system }] : [];
  const chosen = FIELDS.filter((id) => $(id).value !== "").map((id) => [id, Number($(id).value)]);
  return { ...(model && { model }), messages: [...opening, ...messages], ...Object.fromEntries(chosen) };
}

/** A question without an answer can be asked again. */
function giveBack(question) {
  messages.pop();
  if (!$("question").value) $("question").value = question;
  grow();
}

class Answer {
  constructor() {
    this.text = this.reasoning = this.wrong = "";
    this.tokens = 0;
    this.article = article("assistant", model ?? "Answer", "");
    this.article.classList.add("running");
    this.body = this.article.querySelector(".body");
    this.footer = this.article.appendChild(node("footer"));
    this.asked = performance.now();
    this.first = null;
    this.frame = null;
  }

  take({ text, reasoning, tokens, finish }) {
    this.text += text;
    this.reasoning += reasoning;
    this.tokens = tokens;
    this.finish = finish ?? this.finish;
    if (text || reasoning) {
      this.last = performance.now();
      this.first ??= this.last;
    }
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = null;
    follow(() => {
      show(this.body, this.text);
      if (this.reasoning) this.think();
      this.footer.textContent = this.summary();
      if (this.wrong) this.footer.append(node("span", `${this.first === null ? "" : " · "}${this.wrong}`, "wrong"));
    });
    if (running && this.rate()) $("speed").textContent = this.rate().toFixed(1);
  }

  think() {
    this.thoughts ??= this.article.insertBefore(thoughts(), this.body);
    this.thoughts.querySelector("p").textContent = this.reasoning.trim();
  }

  rate() {
    const seconds = (this.last - this.first) / 1000;
    return this.tokens > 1 && seconds > 0 ? (this.tokens - 1) / seconds : null;
  }

  summary() {
    if (this.first === null) return "";
    const parts = [`${this.tokens} tokens`];
    if (this.rate()) parts.push(`${this.rate().toFixed(1)} tokens/s`);
    parts.push(`first after ${((this.first - this.asked) / 1000).toFixed(2)} s`);
    if (this.finish === "length") parts.push("cut off");
    return parts.join(" · ");
  }

  fail(error) {
    if (error.name === "AbortError") this.wrong = "stopped";
    else if (error instanceof Refused) this.wrong = error.message;
    else this.wrong = `the connection broke off (${error.message})`;
  }

  end() {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.article.classList.remove("running");
    this.draw();
  }
}

// ---- what is shown -------------------------------------------------------------------------

function article(role, title, text) {
  const made = node("article", "", role);
  made.append(node("h2", title), node("div", "", "body"));
  show(made.querySelector(".body"), text);
  follow(() => $("talk").append(made), role === "user");
  return made;
}

function thoughts() {
  const made = node("details");
  made.append(node("summary", "Reasoning"), node("p"));
  return made;
}

/** Change the conversation; who reads the end of it goes on reading the end. */
function follow(change, always = false) {
  const talk = $("talk");
  const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
  change();
  if (always || atEnd) talk.scrollTop = talk.scrollHeight;
}

function busy(now) {
  $("send").hidden = now;
  $("stop").hidden = !now;
  $("talk").setAttribute("aria-busy", now);
  if (!now) $("question").focus({ preventScroll: true });
}

function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

// ---- the server ----------------------------------------------------------------------------

async function learnModel() {
  const key = $("api_key").value;
  const response = await fetch("v1/models", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  if (!response.ok) return;
  model = (await response.json()).data?.[0]?.id ?? null;
  $("model").textContent = $("model").title = model ?? "";
}

let before = null;

async function watch() {
  if (document.visibilityState === "visible") {
    try {
      if (model === null) await learnModel();
      showLoad(await load());
    } catch {
      showLoad(null);
    }
  }
  setTimeout(watch, 1000);
}

function showLoad(now) {
  $("running").textContent = now?.running ?? "–";
  $("waiting").textContent = now?.waiting ?? "–";
  $("kv").textContent = now?.kv == null ? "–" : `${(100 * now.kv).toFixed(1)} %`;
  const at = performance.now();
  if (!running) $("speed").textContent = rateSince(now, at);
  before = now && { ...now, at };
}

/** Tokens/s of all requests since the last look. */
function rateSince(now, at) {
  if (now?.generated == null || before?.generated == null) return "–";
  return (Math.max(0, now.generated - before.generated) / ((at - before.at) / 1000)).toFixed(1);
}

// ---- the controls --------------------------------------------------------------------------

function submit(event) {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  grow();
  ask(question);
}

function reset() {
  running?.abort();
  messages = [];
  for (const made of $("talk").querySelectorAll("article")) made.remove();
  $("hint").hidden = false;
  $("question").focus();
}

function toggleSettings() {
  const hidden = ($("settings").hidden = !$("settings").hidden);
  $("settings-button").setAttribute("aria-expanded", !hidden);
  if (!hidden) $("system").focus();
}

const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}

$("ask").addEventListener("submit", submit);
$("question").addEventListener("input", grow);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) running.abort();
  else if (!$("settings").hidden) toggleSettings();
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", reset);
$("settings-button").addEventListener("click", toggleSettings);
$("api_key").addEventListener("change", () => (model = null));
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
setTheme(dark.matches ? "dark" : "light");
watch();
