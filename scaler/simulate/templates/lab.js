// The lab's page: policies on one trace, as points, over cold starts, and bin by bin.

const shareText = (value) => `${+(100 * value).toPrecision(3)} %`;
const policies = page.policies.map((each) => {
  const [color, dash] = page.styles[each.name];
  return { ...each, color, dash, serving: unpack(each.serving), billed: unpack(each.billed), track: each.track && trackOf(each.track) };
});
const subject = policies.find((each) => each.name === page.subject);
const load = unpack(page.load), need = unpack(page.need);

function trackOf(raw) {
  const opinions = Object.entries(raw.opinions).map(([rule, pair]) => [rule, ...pair.map(unpack)]);
  return { ...raw, opinions, median: unpack(raw.median), order: unpack(raw.order), z: unpack(raw.z).map((value) => value - 10), reason: unpack(raw.reason), trust: unpack(raw.trust), clamped: unpack(raw.clamped) };
}

// ── The table of policies ───────────────────────────────────────────────────────────────────────────────────

function sorting(table) {
  const body = table.tBodies[0];
  for (const head of table.tHead.rows[0].cells) head.firstChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending", column = head.cellIndex;
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (tr) => tr.cells[column].dataset.v;
    const compare = (a, b) => (column ? key(a) - key(b) : key(a).localeCompare(key(b)));
    const known = (tr) => Number(key(tr) === "");
    body.append(...[...body.rows].sort((a, b) => known(a) - known(b) || (down ? compare(b, a) : compare(a, b))));
  });
}

// ── Missed against paid, and the cliff ──────────────────────────────────────────────────────────────────────

const tellShares = (missed, ratio) => [`${shareText(missed)} missed`, `${number(ratio, 3)} × the least GPU time`];
const roof = (values, least) => Math.max(least, ...values.filter((value) => Number.isFinite(value)));

function pareto() {
  const played = policies.filter((each) => each.missedRatio !== null && each.gpuRatio !== null);
  const dots = played.map((each) => ({
    color: each.color, mine: each === subject,
    points: [{ x: each.gpuRatio, y: each.missedRatio, name: each.name, named: each.name, tell: tellShares(each.missedRatio, each.gpuRatio), kind: each.hindsight ? "hindsight" : "full", size: each === subject ? 7 : 5 }],
  }));
  // A sweep reaches settings that nobody would pay for: the picture ends a little beyond what was played.
  const high = 1.12 * roof(played.map((each) => each.gpuRatio), 1.2);
  const lines = Object.entries(page.sweep).map(([family, line]) => ({
    color: page.styles[family][0],
    points: line.filter(([, missed, ratio]) => missed !== null && ratio !== null && ratio <= high).map(([name, missed, ratio]) => ({ x: ratio, y: missed, name, tell: tellShares(missed, ratio) })),
  }));
  const all = [...lines, ...dots], points = all.flatMap((line) => line.points);
  const low = Math.min(1, ...points.map((point) => point.x));
  return () => ({
    label: `Missed share against GPU ratio of ${points.length} settings. Arrow keys go from one to the next.`,
    x: axis({ low, high, text: (value) => `${+value.toFixed(2)} ×`, title: "GPU time over the least possible →" }),
    y: axis({ low: 0, high: 1.1 * roof(points.map((point) => point.y), 2.2 * page.target), root: true, text: shareText, title: "missed →" }),
    lines: all, frontier: page.frontier.filter(([, , ratio]) => ratio <= high).map(([, missed, ratio]) => ({ x: ratio, y: missed })),
    target: { y: page.target, text: `target ${shareText(page.target)}` },
  });
}

const FIGURES = [
  { at: 1, label: "missed", title: "missed →", root: true, text: shareText },
  { at: 2, label: "GPU ratio", title: "GPU ratio →", root: false, text: (value) => `${+value.toFixed(2)} ×` },
  { at: 3, label: "SLO met", title: "requests within their SLO →", root: false, text: shareText },
];

function cliff(figure) {
  const entries = Object.entries(page.cliff);
  const last = Math.max(...entries.flatMap(([, line]) => line.map(([coldStart]) => coldStart)));
  const lines = entries.map(([name, line]) => ({
    color: page.styles[name][0], dash: page.styles[name][1], mine: name === page.subject,
    points: line.map((point, i) => ({
      x: point[0], y: point[figure.at] ?? null, name: `${name}, ${point[0]} s`, kind: "full", size: name === page.subject ? 4.5 : 3.5,
      named: i === line.length - 1 ? name : "",
      tell: [...tellShares(point[1], point[2]), ...((point[3] ?? null) === null ? [] : [`${shareText(point[3])} within the SLO`])],
    })),
  }));
  const values = lines.flatMap((line) => line.points.map((point) => point.y)).filter((value) => value !== null);
  const [floor, most] = [Math.min(...values), Math.max(...values)], margin = 0.06 * (most - floor || 1);
  return (width) => ({
    label: `${figure.label} of ${entries.length} policies over cold starts up to ${last} s. Arrow keys go from point to point.`,
    room: width > 460 ? 96 : 16,
    x: axis({ low: 0, high: last || 1, text: (value) => `${value} s`, title: "cold start →" }),
    y: figure.root
      ? axis({ low: 0, high: Math.max(1.1 * most, 2.2 * page.target), root: true, text: figure.text, title: figure.title })
      : axis({ low: floor - margin, high: figure.at === 3 ? Math.min(1, most + margin) : most + margin, text: figure.text, title: figure.title }),
    lines, target: figure.at === 1 ? { y: page.target, text: "" } : null,
  });
}

function planes() {
  const spokenBy = (holder) => holder.parentNode.querySelector(".live");
  const left = document.getElementById("pareto"), right = document.getElementById("cliff");
  plane(left, spokenBy(left), pareto());
  if (!right) return;
  const choice = document.getElementById("cliff-figure");
  const there = FIGURES.filter(({ at }) => Object.values(page.cliff).some((line) => line.some((point) => (point[at] ?? null) !== null)));
  for (const each of there) choice.append(element("option", { textContent: each.label }));
  const draw = plane(right, spokenBy(right), (width) => cliff(there[choice.selectedIndex])(width));
  choice.addEventListener("change", draw);
}

// ── Bin by bin ──────────────────────────────────────────────────────────────────────────────────────────────

const when = (bin) => `${time.day(bin)} ${time.clock(bin)}`;
const before = (policy, bin) => (bin ? policy.billed[bin - 1] : policy.before);
const missedAt = (policy, bin) => {
  const count = countUpTo(policy.missed, bin, ([first]) => first);
  return count > 0 && bin < policy.missed[count - 1][1];
};

// Changes of scale as [after, current, target, reason, proposals, clamps], told by the product or read off the course.
function changesOf(policy) {
  if (policy.track) return policy.track.changes;
  const found = [];
  for (let bin = 0; bin < page.bins; bin++)
    if (policy.billed[bin] !== before(policy, bin)) found.push([bin - 1, before(policy, bin), policy.billed[bin], "", [], []]);
  return found;
}

function trustRuns(track) {
  const blind = (i) => page.reasons[track.reason[i]][0] === "blind_demand";
  const kind = (i) => {
    const trust = page.trusts[track.trust[i]][0];
    return blind(i) ? "--dark" : trust === "trusted" ? "--headstart" : trust === "no_forecast" ? "--learn" : "--reactive";
  };
  const kinds = Array.from(track.trust, (_, i) => kind(i));
  return ["--dark", "--headstart", "--learn", "--reactive"].flatMap((color) =>
    runsOf(page.bins, (i) => kinds[i] === color).map(([a, b]) => [a, b, color, color === "--learn" ? 0.35 : 0.8]));
}

function lanesOf() {
  const lanes = policies.map((each) => ({ label: `${each.name}`, height: 8, spans: each.missed.map(([a, b]) => [a, b, each === subject ? "--missed" : each.color]) }));
  lanes.push({ label: `${subject.name} out / in`, height: 11, color: subject.color, moves: changesOf(subject).map(([after, current, target]) => [after + 1, current, target]) });
  if (subject.track) lanes.push({ label: "forecast", height: 7, spans: trustRuns(subject.track) });
  return lanes;
}

function shadesOf() {
  return [
    ...subject.missed.map(([first, last]) => ({ first, last, color: "--missed", alpha: 0.16 })),
    ...page.events.map(([label, first, last]) => ({ first, last, color: "--event", alpha: 0.2, label })),
  ];
}

const LEGEND = [
  { key: "load", label: "load", color: "--load", on: true },
  { key: "need", label: "needed", color: "--load", dash: [2, 2] },
  ...(subject.track ? [{ key: "band", label: "forecast, median to order", color: "--band", on: true, fill: true }] : []),
  ...policies.map((each) => ({ key: `serves ${each.name}`, label: each.name, color: each.color, dash: each.dash.length ? each.dash : null, on: each === subject || each.name === page.rival })),
  { key: "ordered", label: `${subject.name} ordered`, color: subject.color, dash: [3, 3] },
];

// Rivals first, the subject above them, the load on top.
function seriesOf() {
  const serving = policies.map((each) => ({ key: `serves ${each.name}`, values: each.serving, color: each.color, dash: each.dash, steps: true, width: each === subject ? 2.4 : 1.7 }));
  return [
    ...serving.filter((each) => each.key !== `serves ${subject.name}`),
    { key: "ordered", values: subject.billed, color: subject.color, dash: [3, 3], steps: true, width: 1.5 },
    ...serving.filter((each) => each.key === `serves ${subject.name}`),
    { key: "need", values: need, color: "--load", dash: [2, 2], steps: true, width: 1.2 },
    { key: "load", values: load, color: "--load", area: true, width: 1.3 },
  ];
}

function servingTable(bin) {
  const body = element("tbody");
  for (const each of policies) {
    const from = before(each, bin), to = each.billed[bin], starting = to - each.serving[bin], missed = missedAt(each, bin);
    const name = element("th", { scope: "row", title: each.name }, element("span", { className: `dot${each.hindsight ? " hollow" : ""}` }), each.name);
    const cells = [missed ? `${each.serving[bin]} ✕` : `${each.serving[bin]}`, starting > 0 ? `+${starting}` : "", from === to ? "" : `${from} → ${to}`];
    const line = element("tr", { className: `${each === subject ? "mine" : ""}${missed ? " out" : ""}` }, name, ...cells.map((text) => element("td", { className: "n", textContent: text })));
    line.style.setProperty("--c", `var(${each.color})`);
    body.append(line);
  }
  const head = element("tr", {}, ...["policy", "serve", "start", "ordered"].map((title, i) => element("th", { scope: "col", className: i ? "n" : "", textContent: title })));
  return element("table", {}, element("thead", {}, head), body);
}

// What the product decided for this bin; its newest change of scale with all that was proposed for it.
function reasoning(policy, bin) {
  const { track } = policy, after = bin - 1, nodes = [];
  const newest = changeBefore(track.changes, after);
  if (after >= 0) {
    const [reason, sentence] = page.reasons[track.reason[after]], [, trusted] = page.trusts[track.trust[after]];
    nodes.push(element("div", {}, element("b", { textContent: `${policy.name} decided before this bin began: ${words(reason)}` }), `, ${sentence}.`));
    for (const [rule, wants, keeps] of track.opinions)
      if (Number.isFinite(wants[after])) nodes.push(element("div", {}, element("b", { textContent: `${rule} ` }), `wants ${wants[after]}, keeps ${keeps[after]}`));
    for (const [rule, from, to, cause] of track.clamps[track.clamped[after]] || [])
      nodes.push(element("div", {}, element("b", { textContent: `${rule} ` }), `${from} → ${to}, ${words(cause)}`));
    nodes.push(element("div", {}, element("b", { textContent: `z ${number(track.z[after], 2)} ` }), `forecast ${trusted}`));
  }
  const block = element("div", { className: "why" }, ...nodes);
  return newest ? [block, why(newest, `${newest[0] + 1 === bin ? "now" : `last change ${when(newest[0] + 1)}`}`)] : [block];
}

function describe(chart) {
  const bin = chart.cursor ?? chart.last ?? firstLook();
  if (bin === chart.told) return;
  chart.last = chart.told = bin;
  const nodes = [
    element("div", { className: "when", textContent: when(bin) }),
    row("load", Number.isFinite(load[bin]) ? `${number(load[bin], 2)} replicas = ${+(load[bin] * page.capacity).toPrecision(4)}/s` : "unknown, not scored"),
    row("needed", number(need[bin], 0)),
  ];
  const { track } = subject;
  if (track && Number.isFinite(track.median[bin])) nodes.push(row("forecast", `median ${number(track.median[bin], 2)}, order ${number(track.order[bin], 2)}`));
  for (const [label, first, last] of page.events) if (bin + 1 > first && bin < last) nodes.push(row("event", label));
  nodes.push(servingTable(bin));
  if (track) nodes.push(...reasoning(subject, bin));
  panel.replaceChildren(...nodes);
  if (document.activeElement === chart.canvas) document.getElementById("spoken").textContent = `${when(bin)}, load ${number(load[bin], 1)}, ${subject.name} serves ${subject.serving[bin]}${missedAt(subject, bin) ? ", missed" : ""}`;
}

// Before anybody points: the subject's first miss, else the highest load.
function firstLook() {
  if (subject.missed.length) return subject.missed[0][0];
  return load.reduce((best, value, i) => (value > (load[best] || 0) ? i : best), 0);
}

function toMiss(direction) {
  const here = chart.cursor ?? (direction > 0 ? time.view.from - 1 : time.view.to), { missed } = subject;
  const found = direction > 0 ? missed.find(([first]) => first > here) : missed.findLast(([, last]) => last <= here);
  if (!found) return;
  const hours = Math.round((6 * HOUR_S) / page.step);
  if (time.view.to - time.view.from > 4 * hours) time.zoom(found[0] - hours / 2, found[0] + hours / 2);
  time.visit(chart, found[0]);
}

function rangeButtons() {
  const holder = document.getElementById("ranges"), add = (label, bins) => {
    if (bins >= page.bins || bins < 20) return;
    const button = element("button", { type: "button", textContent: label });
    button.dataset.bins = bins;
    button.onclick = () => { const middle = chart.cursor ?? (time.view.from + time.view.to) / 2; time.zoom(middle - bins / 2, middle + bins / 2); };
    holder.append(button);
  };
  const all = element("button", { type: "button", textContent: "All", onclick: () => time.zoom(0, page.bins) });
  all.dataset.bins = page.bins;
  holder.append(all);
  for (const [label, span] of [["1 day", DAY_S], ["6 h", 6 * HOUR_S], ["1 h", HOUR_S]]) add(label, Math.round(span / page.step));
  const press = (id, action) => { document.getElementById(id).onclick = action; };
  const span = () => time.view.to - time.view.from, middle = () => (time.view.from + time.view.to) / 2;
  press("earlier", () => time.pan(-span() / 2));
  press("later", () => time.pan(span() / 2));
  press("closer", () => time.scale(0.5, chart.cursor ?? middle()));
  press("wider", () => time.scale(2, middle()));
  press("miss-before", () => toMiss(-1));
  press("miss-after", () => toMiss(1));
}

function viewed({ from, to }) {
  for (const button of document.querySelectorAll("#ranges button")) button.setAttribute("aria-pressed", String(+button.dataset.bins === to - from));
  document.getElementById("range").textContent = `${when(from)} to ${when(to)} UTC`;
  overview.draw();
  if (decisions.open) list();
}

const MOST_ROWS = 500;

function list() {
  const policy = policies[document.getElementById("whose").selectedIndex];
  const rows = changesOf(policy).filter(([after]) => after + 1 >= time.view.from && after + 1 < time.view.to);
  const cells = rows.slice(0, MOST_ROWS).map((each) => [when(each[0] + 1), `${each[1]} → ${each[2]}`, words(each[3]), inShort(each)]);
  const more = rows.length > MOST_ROWS ? `, the first ${MOST_ROWS} of them here` : "";
  decisions.querySelector(".changes").replaceChildren(element("p", { textContent: `${rows.length} changes${more}` }), changesTable(cells));
}

// The whole window in a strip: its frame is dragged, its edges are pulled.
function overviewOf(canvas) {
  let drag = null;
  const x = (bin) => (bin / page.bins) * canvas.clientWidth, bin = (event) => ((event.clientX - canvas.getBoundingClientRect().left) / canvas.clientWidth) * page.bins;
  const most = load.reduce((top, value) => (value > top ? value : top), 1);

  function draw() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (width < 20) return;
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = theme.color("--load");
    pen.globalAlpha = 0.45;
    for (let px = 0; px < width; px++) {
      let high = 0;
      for (let i = Math.floor((px / width) * page.bins); i < Math.max(Math.floor((px / width) * page.bins) + 1, ((px + 1) / width) * page.bins); i++) if (load[i] > high) high = load[i];
      pen.fillRect(px, height - 5 - (high / most) * (height - 8), 1, (high / most) * (height - 8));
    }
    pen.globalAlpha = 1;
    pen.fillStyle = theme.color("--missed");
    for (const [first, last] of subject.missed) pen.fillRect(x(first), height - 4, Math.max(1.4, x(last) - x(first)), 4);
    const [a, b] = [x(time.view.from), x(time.view.to)];
    pen.globalAlpha = 0.72;
    pen.fillStyle = theme.color("--card");
    pen.fillRect(0, 0, a, height); pen.fillRect(b, 0, width - b, height);
    pen.globalAlpha = 1;
    pen.strokeStyle = pen.fillStyle = theme.color("--band");
    pen.strokeRect(a + 0.5, 0.5, Math.max(1, b - a - 1), height - 1);
    for (const edge of [a, b]) pen.fillRect(Math.max(0, Math.min(width - 4, edge - 2)), height / 2 - 8, 4, 16);
  }

  canvas.addEventListener("pointerdown", (event) => {
    const at = bin(event), { from, to } = time.view, reach = (9 / canvas.clientWidth) * page.bins;
    const edge = Math.abs(at - from) < reach ? "from" : Math.abs(at - to) < reach ? "to" : null;
    if (!edge && (at < from || at > to)) time.pan(at - (from + to) / 2);
    drag = { edge, at, from: time.view.from, to: time.view.to };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const by = bin(event) - drag.at;
    if (drag.edge === "from") time.zoom(Math.min(drag.from + by, drag.to - LEAST_BINS), drag.to);
    else if (drag.edge === "to") time.zoom(drag.from, Math.max(drag.to + by, drag.from + LEAST_BINS));
    else time.zoom(drag.from + by, drag.to + by);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { drag = null; });
  addEventListener("resize", draw);
  theme.onChange(draw);
  return { draw };
}

// ── All together ────────────────────────────────────────────────────────────────────────────────────────────

const panel = document.getElementById("panel"), decisions = document.getElementById("decisions");
const time = timeline({ startS: page.start, stepS: page.step, bins: page.bins, sticky: true, onView: viewed });
const overview = overviewOf(document.getElementById("overview"));
const lanes = lanesOf();
document.querySelector(".live-view").style.setProperty("--lanes", `${lanes.reduce((sum, lane) => sum + lane.height + LANE_GAP, 0)}px`);
time.legend(document.getElementById("legend"), LEGEND);
const chart = time.add({
  canvas: document.getElementById("chart"), left: 118, lanes, shades: shadesOf(), series: seriesOf(), describe,
  band: subject.track && { key: "band", low: subject.track.median, high: subject.track.order, color: "--band" },
  keys: { n: () => toMiss(1), p: () => toMiss(-1) },
});
rangeButtons();
for (const each of policies) document.getElementById("whose").append(element("option", { textContent: each.name, selected: each === subject }));
document.getElementById("whose").addEventListener("change", list);
decisions.addEventListener("toggle", () => { if (decisions.open) list(); });
sorting(document.getElementById("scores"));
planes();
time.zoom(0, page.bins);

for (const button of document.querySelectorAll(".lengths")) button.addEventListener("click", () => {
  document.getElementById("regrets").dataset.shares = button.dataset.shares;
  for (const each of document.querySelectorAll(".lengths")) each.setAttribute("aria-pressed", String(each === button));
});

const copy = document.getElementById("copy");
copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(document.getElementById("command").textContent);
    copy.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(document.getElementById("command"));
    copy.textContent = "Selected";
  }
});
