// What every page of the simulator shares: its data, its words, its theme. Asks for nothing but the JSON in #data.
const page = JSON.parse(document.getElementById("data").textContent);

// ── Data ────────────────────────────────────────────────────────────────────────────────────────────────────

function unpack(packed) {
  const raw = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  if (packed.bytes === 1) return Float64Array.from(raw);
  const view = new DataView(raw.buffer);
  return Float64Array.from({ length: raw.length / 2 }, (_, i) => {
    const code = view.getUint16(2 * i, true);
    return code === 65535 ? NaN : code * packed.step;
  });
}

// Stretches [first, last) in which `holds` is true.
function runsOf(count, holds) {
  const runs = [];
  for (let i = 0; i < count; i++) {
    if (!holds(i)) continue;
    const first = i;
    while (i < count && holds(i)) i++;
    runs.push([first, i]);
  }
  return runs;
}

// How many of the sorted `items` have a key at or below `value`.
function countUpTo(items, value, key = (item) => item) {
  let low = 0, high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(items[middle]) <= value) low = middle + 1; else high = middle;
  }
  return low;
}

// The newest change made at or before `bin`, or null: changes are in order of time.
function changeBefore(changes, bin) {
  const count = countUpTo(changes, bin, ([after]) => after);
  return count ? changes[count - 1] : null;
}

// ── Words ───────────────────────────────────────────────────────────────────────────────────────────────────

const number = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "unknown");
const words = (text) => text.replaceAll("_", " ");

function element(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

function row(name, text, bad) {
  return element("div", { className: "row" }, element("span", { textContent: name }), element("span", { textContent: text, className: bad ? "bad" : "" }));
}

// One change of scale with everything that led to it.
function why([, current, target, reason, proposals, clamps], clock) {
  const block = element("div", { className: "why" }, element("b", { textContent: `${clock}: ${current} → ${target}, ${words(reason)}` }));
  for (const [rule, want, keep, , detail] of proposals)
    block.append(element("div", {}, element("b", { textContent: `${rule} ` }), `wants ${want}, keeps ${keep}: ${detail}`));
  for (const [rule, before, now, cause, detail] of clamps)
    block.append(element("div", {}, element("b", { textContent: `${rule} ` }), `${before} → ${now}, ${words(cause)}${detail ? `: ${detail}` : ""}`));
  return block;
}

function changesTable(rows) {
  const head = element("tr");
  for (const title of ["when", "replicas", "reason", "proposals and clamps"]) head.append(element("th", { scope: "col", textContent: title }));
  const body = element("tbody");
  for (const cells of rows) body.append(element("tr", {}, ...cells.map((text) => element("td", { textContent: text }))));
  return element("table", {}, element("thead", {}, head), body);
}

// What was proposed and clamped, in one line.
function inShort([, , , , proposals, clamps]) {
  return [...proposals.map(([rule, want, keep, , text]) => `${rule} ${want}/${keep} (${text})`), ...clamps.map(([rule, a, b, cause]) => `${rule} ${a} → ${b} (${words(cause)})`)].join("; ");
}

// ── Theme ───────────────────────────────────────────────────────────────────────────────────────────────────

const theme = (() => {
  const system = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const button = document.getElementById("theme"), listeners = [];
  let known = new Map();
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const changed = () => {
    known = new Map();
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
    for (const each of listeners) each();
  };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; changed(); });
  system.addEventListener("change", changed);
  changed();
  return {
    // The value of a custom property such as "--load", read once a theme: canvases cannot resolve them.
    color(name) {
      if (!known.has(name)) known.set(name, getComputedStyle(root).getPropertyValue(name).trim());
      return known.get(name);
    },
    onChange(listener) { listeners.push(listener); },
  };
})();
