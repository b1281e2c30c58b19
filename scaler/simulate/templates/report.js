// The demo's page: a week of every workload.
const LANES = { missed: "missed", reactive: "… reactive", changes: "out / in", trust: "forecast" };
const LEGEND = [
  { key: "load", label: "load", color: "--load", on: true },
  { key: "band", label: "forecast: median to ordered quantile", color: "--band", on: true, fill: true },
  { key: "headstart", label: "headstart serves", color: "--headstart", on: true },
  { key: "ordered", label: "headstart ordered", color: "--headstart", dash: [3, 3] },
  { key: "reactive", label: "reactive serves", color: "--reactive" },
  { key: "hpa", label: "hpa serves", color: "--hpa" },
  { key: "oracle", label: "oracle serves", color: "--oracle" },
];
const DAY = 1440;

const week = timeline({ startS: page.start, stepS: 60, bins: page.bins, onView: viewed });
const articles = [];

function workload(raw) {
  const lines = { load: unpack(raw.load), median: unpack(raw.median), order: unpack(raw.order), upper: unpack(raw.upper), ordered: unpack(raw.ordered) };
  for (const [policy, packed] of Object.entries(raw.serving)) lines[policy] = unpack(packed);
  return { ...raw, lines, reason: unpack(raw.reason), trust: unpack(raw.trust), z: unpack(raw.z).map((value) => value - 10) };
}

function trustRuns(data) {
  const names = Array.from(data.trust, (index) => page.trusts[index]);
  const blind = Array.from(data.reason, (index) => page.reasons[index] === "blind_demand");
  const kind = (i) => (blind[i] ? "--dark" : names[i] === "trusted" ? "--headstart" : names[i] === "no_forecast" ? "--learn" : "--reactive");
  return ["--dark", "--headstart", "--learn", "--reactive"].flatMap((color) =>
    runsOf(page.bins, (i) => kind(i) === color).map(([a, b]) => [a, b, color, color === "--learn" ? 0.35 : 0.8]));
}

function shades(data) {
  return [
    { first: 0, last: page.learning, color: "--learn", alpha: 0.1, label: "learning, not scored" },
    ...data.bursts.map(([first, last]) => ({ first, last, color: "--reactive", alpha: 0.22 })),
    ...data.events.map(([, first, last]) => ({ first, last, color: "--event", alpha: 0.2, label: "promotion" })),
    ...data.dark.map(([first, last]) => ({ first, last, color: "--dark", alpha: 0.42, label: "no metrics" })),
  ];
}

// Replicas first and the load above them.
function seriesOf(data) {
  const drawn = LEGEND.filter((each) => each.key !== "band");
  return [...drawn.slice(1), drawn[0]].map((each) => ({ ...each, values: data.lines[each.key], steps: each.key !== "load", width: each.key === "load" ? 1.3 : 1.8 }));
}

function lanesOf(data) {
  return [
    { label: LANES.missed, height: 9, spans: data.missed.headstart.map(([a, b]) => [a, b, "--missed"]) },
    { label: LANES.reactive, height: 9, spans: data.missed.reactive.map(([a, b]) => [a, b, "--reactive"]) },
    { label: LANES.changes, height: 11, color: "--headstart", moves: data.changes.map(([after, current, target]) => [after + 1, current, target]) },
    { label: LANES.trust, height: 7, spans: trustRuns(data) },
  ];
}

// ── Words at the cursor ─────────────────────────────────────────────────────────────────────────────────────

function describe(chart) {
  const { tip, live, data, cursor: bin } = chart, { lines } = data;
  tip.hidden = bin === null;
  if (bin === null) return;
  const within = ([a, b]) => bin >= a && bin < b;
  const missed = data.missed.headstart.some(within), dark = data.dark.some(within);
  const nodes = [
    element("div", { className: "when", textContent: `${week.weekday(bin)} ${week.clock(bin)}` + (missed ? " · missed" : "") + (dark ? " · metrics dark" : "") }),
    row("load", `${number(lines.load[bin], 2)} replicas = ${number(lines.load[bin] * data.maxRps)} requests/s`),
    row("headstart", `${number(lines.headstart[bin], 0)} serve, ${number(lines.ordered[bin] - lines.headstart[bin], 0)} start`, missed),
    row("reactive · hpa · oracle", ["reactive", "hpa", "oracle"].map((each) => number(lines[each][bin], 0)).join(" · ")),
  ];
  if (Number.isFinite(lines.median[bin]))
    nodes.push(row("forecast", `median ${number(lines.median[bin], 2)} · .95 ${number(lines.upper[bin], 2)} · order ${number(lines.order[bin], 2)}`));
  nodes.push(row("decision", `${words(page.reasons[data.reason[bin]])} · z ${number(data.z[bin], 2)} · ${words(page.trusts[data.trust[bin]])}`));
  const change = changeBefore(data.changes, bin);
  if (change) nodes.push(why(change, week.clock(change[0] + 1)));
  tip.replaceChildren(...nodes);
  const x = chart.x(bin + 0.5), middle = (chart.box.left + chart.box.right) / 2;
  tip.style.left = x > middle ? `${chart.box.left + 6}px` : "auto";
  tip.style.right = x > middle ? "auto" : "20px";
  if (document.activeElement === chart.canvas) live.textContent = tip.innerText;
}

function list({ data, changes }) {
  const rows = data.changes.filter(([after]) => after + 1 >= week.view.from && after + 1 < week.view.to);
  const cells = rows.map((each) => [`${week.weekday(each[0] + 1)} ${week.clock(each[0] + 1)}`, `${each[1]} → ${each[2]}`, words(each[3]), inShort(each)]);
  changes.replaceChildren(element("p", { textContent: `${rows.length} changes` }), changesTable(cells));
}

function viewed(view) {
  for (const button of document.querySelectorAll("#days button"))
    button.setAttribute("aria-pressed", String(+button.dataset.from === view.from && +button.dataset.to === view.to));
  for (const article of articles) if (article.details.open) list(article);
}

function ranges() {
  const holder = document.getElementById("days");
  const add = (label, from, to) => {
    const button = element("button", { type: "button", textContent: label, onclick: () => week.zoom(from, to) });
    Object.assign(button.dataset, { from, to });
    holder.append(button);
  };
  add("Week", 0, page.bins);
  if (page.learning) add("Scored days", page.learning, page.bins);
  for (let from = 0; from < page.bins; from += DAY) add(week.weekday(from), from, from + DAY);
}

week.legend(document.getElementById("legend"), LEGEND);
for (const holder of document.querySelectorAll(".chart")) {
  const article = holder.closest(".workload"), data = workload(page.workloads[+holder.dataset.workload]);
  const parts = {
    data, tip: holder.querySelector(".tip"), live: article.querySelector(".live"),
    details: article.querySelector("details"), changes: article.querySelector(".changes"),
  };
  articles.push(parts);
  parts.details.addEventListener("toggle", () => { if (parts.details.open) list(parts); });
  week.add({
    ...parts, canvas: holder.querySelector("canvas"), series: seriesOf(data), lanes: lanesOf(data), shades: shades(data), describe,
    band: { key: "band", low: data.lines.median, high: data.lines.order, color: "--band" },
  });
}
ranges();
week.zoom(0, page.bins);
