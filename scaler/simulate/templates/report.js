// Draws the week of every workload on canvas. Reads the JSON in #data, asks for nothing else.
"use strict";
(() => {
  const week = JSON.parse(document.getElementById("data").textContent);
  const DAY = 1440, BINS = week.bins;
  const MARGIN = { left: 64, right: 14, top: 12, bottom: 22 };
  const LANES = [
    { key: "missed-headstart", label: "missed", height: 9 },
    { key: "missed-reactive", label: "… reactive", height: 9 },
    { key: "changes", label: "out / in", height: 11 },
    { key: "trust", label: "forecast", height: 7 },
  ];
  const LANE_GAP = 3;
  const SERIES = [
    { key: "load", label: "load", color: "--load", on: true },
    { key: "band", label: "forecast: median to ordered quantile", color: "--band", on: true, fill: true },
    { key: "headstart", label: "headstart serves", color: "--headstart", on: true },
    { key: "ordered", label: "headstart ordered", color: "--headstart", on: false, dash: [3, 3] },
    { key: "reactive", label: "reactive serves", color: "--reactive", on: false },
    { key: "hpa", label: "hpa serves", color: "--hpa", on: false },
    { key: "oracle", label: "oracle serves", color: "--oracle", on: false },
  ];
  const view = { from: 0, to: BINS };
  const shown = new Set(SERIES.filter((each) => each.on).map((each) => each.key));
  const charts = [];
  let colors = {};

  // ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────

  function unpack(packed) {
    const raw = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
    if (packed.bytes === 1) return Float64Array.from(raw);
    const codes = new Uint16Array(raw.buffer);
    return Float64Array.from(codes, (code) => (code === 65535 ? NaN : code * packed.step));
  }

  function workload(raw) {
    const lines = { load: unpack(raw.load), median: unpack(raw.median), order: unpack(raw.order), upper: unpack(raw.upper), ordered: unpack(raw.ordered) };
    for (const [policy, packed] of Object.entries(raw.serving)) lines[policy] = unpack(packed);
    const reason = unpack(raw.reason), trust = unpack(raw.trust), z = unpack(raw.z).map((value) => value - 10);
    const missed = (policy) => runsOf(BINS, (i) => lines.load[i] > lines[policy][i] + 1e-3);
    return { ...raw, lines, reason, trust, z, missed: { headstart: missed("headstart"), reactive: missed("reactive") } };
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

  // The newest change made at or before `bin`, or null: changes are in order of time.
  function changeBefore(changes, bin) {
    let low = 0, high = changes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (changes[middle][0] <= bin) low = middle + 1; else high = middle;
    }
    return low ? changes[low - 1] : null;
  }

  // ── Words ─────────────────────────────────────────────────────────────────────────────────────────────────

  const when = (bin) => new Date((week.start + bin * 60) * 1000);
  const weekday = (bin) => when(bin).toLocaleDateString("en-GB", { weekday: "short", timeZone: "UTC" });
  const clock = (bin) => when(bin).toISOString().slice(11, 16);
  const number = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "unknown");
  const words = (text) => text.replaceAll("_", " ");

  function element(tag, props = {}, ...children) {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  }

  // ── Drawing ───────────────────────────────────────────────────────────────────────────────────────────────

  function readColors() {
    const style = getComputedStyle(document.documentElement);
    colors = {};
    for (const name of ["--card", "--ink", "--soft", "--line", "--grid", "--headstart", "--reactive", "--hpa", "--oracle", "--load", "--band", "--missed", "--event", "--dark", "--learn"])
      colors[name] = style.getPropertyValue(name).trim();
  }

  function layout(canvas) {
    const width = canvas.clientWidth, height = canvas.clientHeight;
    const lanes = LANES.reduce((sum, lane) => sum + lane.height + LANE_GAP, 0);
    return { width, height, left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom - lanes - 4 };
  }

  function niceStep(span, wanted) {
    const rough = span / wanted, power = 10 ** Math.floor(Math.log10(rough));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  }

  function highest(lines, names) {
    let top = 1;
    for (const name of names) {
      const line = lines[name];
      for (let i = view.from; i < view.to; i++) if (line[i] > top) top = line[i];
    }
    return top;
  }

  function draw(chart) {
    const { canvas, data } = chart;
    const box = layout(canvas), ratio = window.devicePixelRatio || 1;
    if (box.width < 50) return;
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = "11px system-ui, sans-serif";
    const names = SERIES.filter((each) => shown.has(each.key) && each.key !== "band").map((each) => each.key);
    // The ordered quantile may shoot far above everything after a surprise; the picture follows load and replicas.
    const solid = highest(data.lines, names);
    const top = 1.06 * (shown.has("band") ? Math.max(solid, Math.min(highest(data.lines, ["order"]), 1.5 * solid)) : solid);
    chart.box = box;
    chart.x = (bin) => box.left + ((bin - view.from) / (view.to - view.from)) * (box.right - box.left);
    chart.y = (value) => box.bottom - (Math.min(value, top) / top) * (box.bottom - box.top);
    chart.bin = (x) => Math.max(view.from, Math.min(view.to - 1, Math.floor(view.from + ((x - box.left) / (box.right - box.left)) * (view.to - view.from))));

    shades(pen, chart);
    grid(pen, chart, top);
    pen.save();
    pen.beginPath();
    pen.rect(box.left, box.top - 2, box.right - box.left, box.bottom - box.top + 4);
    pen.clip();
    if (shown.has("band")) band(pen, chart);
    for (const series of SERIES)
      if (series.key !== "band" && series.key !== "load" && shown.has(series.key)) line(pen, chart, series, true);
    if (shown.has("load")) line(pen, chart, SERIES[0], false);
    pen.restore();
    lanes(pen, chart);
    if (chart.cursor !== null) cursor(pen, chart);
    if (chart.drag) {
      pen.fillStyle = colors["--band"];
      pen.globalAlpha = 0.18;
      pen.fillRect(Math.min(...chart.drag), box.top, Math.abs(chart.drag[1] - chart.drag[0]), box.bottom - box.top);
      pen.globalAlpha = 1;
    }
  }

  function shades(pen, chart) {
    const { box, data } = chart;
    const shade = (first, last, color, alpha, label) => {
      if (last <= view.from || first >= view.to) return;
      const x0 = Math.max(box.left, chart.x(first)), x1 = Math.min(box.right, Math.max(chart.x(last), chart.x(first) + 1.5));
      pen.globalAlpha = alpha;
      pen.fillStyle = color;
      pen.fillRect(x0, box.top, x1 - x0, box.bottom - box.top);
      pen.globalAlpha = 1;
      if (label) {
        const width = pen.measureText(label).width;
        pen.fillStyle = color;
        pen.textAlign = "left";
        pen.fillText(label, Math.min(x0 + 4, box.right - width - 2), box.top + 11);
      }
    };
    shade(0, week.learning, colors["--learn"], 0.1, "learning, not scored");
    for (const [first, last] of data.bursts) shade(first, last, colors["--reactive"], 0.22, "");
    for (const [, first, last] of data.events) shade(first, last, colors["--event"], 0.2, "promotion");
    for (const [first, last] of data.dark) shade(first, last, colors["--dark"], 0.42, "no metrics");
  }

  function grid(pen, chart, top) {
    const { box } = chart;
    pen.lineWidth = 1;
    pen.textAlign = "right";
    const step = Math.max(1, niceStep(top, 5));
    for (let value = 0; value <= top; value += step) {
      const y = Math.round(chart.y(value)) + 0.5;
      pen.strokeStyle = value ? colors["--grid"] : colors["--line"];
      pen.beginPath(); pen.moveTo(box.left, y); pen.lineTo(box.right, y); pen.stroke();
      pen.fillStyle = colors["--soft"];
      pen.fillText(String(value), box.left - 7, y + 4);
    }
    pen.save();
    pen.translate(13, (box.top + box.bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText("replicas", 0, 0);
    pen.restore();
    const span = view.to - view.from;
    const every = [5, 15, 30, 60, 180, 360, 720, 1440].find((bins) => span / bins <= 12) || DAY;
    pen.textAlign = "center";
    for (let bin = Math.ceil(view.from / every) * every; bin <= view.to; bin += every) {
      const x = Math.round(chart.x(bin)) + 0.5, midnight = bin % DAY === 0;
      pen.strokeStyle = midnight ? colors["--line"] : colors["--grid"];
      pen.beginPath(); pen.moveTo(x, box.top); pen.lineTo(x, box.bottom); pen.stroke();
      const text = midnight ? (every < DAY ? `${weekday(bin)} 00:00` : "") : clock(bin);
      pen.fillStyle = colors["--soft"];
      if (text && bin < view.to) pen.fillText(text, Math.max(x, box.left + 14), chart.box.height - 7);
    }
    if (every >= DAY)
      for (let day = Math.floor(view.from / DAY); day * DAY < view.to; day++)
        pen.fillText(`${weekday(day * DAY)} ${when(day * DAY).getUTCDate()}`, chart.x((day + 0.5) * DAY), chart.box.height - 7);
  }

  // Lowest and highest value under each pixel column: a week has nine minutes a pixel, and none may vanish.
  function columns(chart, values, paint) {
    const { box } = chart, width = Math.max(1, Math.floor(box.right - box.left));
    for (let px = 0; px < width; px++) {
      const first = view.from + Math.floor((px / width) * (view.to - view.from));
      const last = Math.max(first + 1, view.from + Math.floor(((px + 1) / width) * (view.to - view.from)));
      let low = Infinity, high = -Infinity;
      for (let i = first; i < last; i++) {
        const value = values[i];
        if (value < low) low = value;
        if (value > high) high = value;
      }
      paint(box.left + px, low, high);
    }
  }

  function line(pen, chart, series, steps) {
    const values = chart.data.lines[series.key];
    const { box } = chart, dense = view.to - view.from > 1.5 * (box.right - box.left);
    pen.strokeStyle = colors[series.color];
    pen.lineWidth = series.key === "load" ? (dense ? 1 : 1.3) : 1.8;
    pen.lineJoin = "round";
    pen.setLineDash(series.dash || []);
    pen.beginPath();
    let open = false;
    if (dense) {
      columns(chart, values, (x, low, high) => {
        if (high < low) { open = false; return; }
        if (open) pen.lineTo(x, chart.y(low)); else pen.moveTo(x, chart.y(low));
        pen.lineTo(x, chart.y(high));
        open = true;
      });
    } else {
      for (let i = view.from; i < view.to; i++) {
        if (Number.isNaN(values[i])) { open = false; continue; }
        const y = chart.y(values[i]), x0 = steps ? chart.x(i) : chart.x(i + 0.5);
        if (open) pen.lineTo(x0, y); else pen.moveTo(x0, y);
        if (steps) pen.lineTo(chart.x(i + 1), y);
        open = true;
      }
    }
    pen.stroke();
    pen.setLineDash([]);
  }

  function band(pen, chart) {
    const { median, order } = chart.data.lines;
    const upper = [], lower = [];
    const flush = () => {
      if (upper.length > 1) {
        pen.beginPath();
        upper.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
        lower.reverse().forEach(([x, y]) => pen.lineTo(x, y));
        pen.closePath();
        pen.globalAlpha = 0.24;
        pen.fillStyle = colors["--band"];
        pen.fill();
        pen.globalAlpha = 0.85;
        pen.strokeStyle = colors["--band"];
        pen.lineWidth = 1;
        pen.beginPath();
        upper.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
        pen.stroke();
        pen.globalAlpha = 1;
      }
      upper.length = lower.length = 0;
    };
    const add = (x, low, high) => {
      if (!(high >= 0)) { flush(); return; }
      upper.push([x, chart.y(Math.max(low, high))]);
      lower.push([x, chart.y(Math.min(low, high))]);
    };
    if (view.to - view.from > 1.5 * (chart.box.right - chart.box.left)) {
      const tops = [];
      columns(chart, order, (x, low, high) => tops.push(high));
      let i = 0;
      columns(chart, median, (x, low) => add(x, low, tops[i++]));
    } else {
      for (let i = view.from; i < view.to; i++) add(chart.x(i + 0.5), median[i], order[i]);
    }
    flush();
  }

  function lanes(pen, chart) {
    const { box, data } = chart;
    let y = box.bottom + 8;
    const span = (first, last, color, alpha = 1) => {
      if (last <= view.from || first >= view.to) return;
      const x0 = Math.max(box.left, chart.x(first)), x1 = Math.min(box.right, chart.x(last));
      pen.globalAlpha = alpha;
      pen.fillStyle = color;
      pen.fillRect(x0, y, Math.max(1.4, x1 - x0), chart.lane);
      pen.globalAlpha = 1;
    };
    for (const lane of LANES) {
      chart.lane = lane.height;
      pen.fillStyle = colors["--soft"];
      pen.textAlign = "right";
      pen.font = "10px system-ui, sans-serif";
      pen.fillText(lane.label, box.left - 7, y + lane.height - 0.5);
      span(view.from, view.to, colors["--grid"], 0.6);
      if (lane.key === "missed-headstart") for (const [a, b] of data.missed.headstart) span(a, b, colors["--missed"]);
      if (lane.key === "missed-reactive") for (const [a, b] of data.missed.reactive) span(a, b, colors["--reactive"]);
      if (lane.key === "changes") marks(pen, chart, y, lane.height);
      if (lane.key === "trust") for (const [a, b, color, alpha] of data.trustRuns) span(a, b, colors[color], alpha);
      y += lane.height + LANE_GAP;
    }
    pen.font = "11px system-ui, sans-serif";
  }

  function marks(pen, chart, y, height) {
    const wide = (chart.box.right - chart.box.left) / (view.to - view.from) > 0.7;
    for (const [after, current, target] of chart.data.changes) {
      const bin = after + 1;
      if (bin < view.from || bin >= view.to) continue;
      const x = chart.x(bin), out = target > current;
      pen.fillStyle = out ? colors["--headstart"] : colors["--soft"];
      if (!wide) {
        pen.fillRect(x, out ? y : y + height / 2, 1, height / 2);
        continue;
      }
      pen.beginPath();
      pen.moveTo(x, out ? y : y + height);
      pen.lineTo(x - 4, out ? y + height : y);
      pen.lineTo(x + 4, out ? y + height : y);
      pen.fill();
    }
  }

  function cursor(pen, chart) {
    const { box } = chart, x = chart.x(chart.cursor + 0.5);
    pen.strokeStyle = colors["--ink"];
    pen.globalAlpha = 0.55;
    pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(x, box.top); pen.lineTo(x, box.height - MARGIN.bottom); pen.stroke();
    pen.globalAlpha = 1;
    pen.fillStyle = colors["--load"];
    const value = chart.data.lines.load[chart.cursor];
    if (Number.isFinite(value)) { pen.beginPath(); pen.arc(x, chart.y(value), 3.2, 0, 7); pen.fill(); }
  }

  // ── The card under the pointer ────────────────────────────────────────────────────────────────────────────

  function describe(chart) {
    const { tip, data, cursor: bin } = chart;
    tip.hidden = bin === null;
    if (bin === null) return;
    const { lines } = data;
    const row = (name, text, bad = false) => element("div", { className: "row" }, element("span", { textContent: name }), element("span", { textContent: text, className: bad ? "bad" : "" }));
    const missed = lines.load[bin] > lines.headstart[bin] + 1e-3;
    const dark = data.dark.some(([a, b]) => bin >= a && bin < b);
    const nodes = [
      element("div", { className: "when", textContent: `${weekday(bin)} ${clock(bin)}` + (missed ? " · missed" : "") + (dark ? " · metrics dark" : "") }),
      row("load", `${number(lines.load[bin], 2)} replicas = ${number(lines.load[bin] * data.maxRps)} requests/s`),
      row("headstart", `${number(lines.headstart[bin], 0)} serve, ${number(lines.ordered[bin] - lines.headstart[bin], 0)} start`, missed),
      row("reactive · hpa · oracle", ["reactive", "hpa", "oracle"].map((each) => number(lines[each][bin], 0)).join(" · ")),
    ];
    if (Number.isFinite(lines.median[bin]))
      nodes.push(row("forecast", `median ${number(lines.median[bin], 2)} · .95 ${number(lines.upper[bin], 2)} · order ${number(lines.order[bin], 2)}`));
    nodes.push(row("decision", `${words(week.reasons[data.reason[bin]])} · z ${number(data.z[bin], 2)} · ${words(week.trusts[data.trust[bin]])}`));
    const change = changeBefore(data.changes, bin);
    if (change) nodes.push(why(change));
    tip.replaceChildren(...nodes);
    const x = chart.x(bin + 0.5), middle = (chart.box.left + chart.box.right) / 2;
    tip.style.left = x > middle ? `${chart.box.left + 6}px` : "auto";
    tip.style.right = x > middle ? "auto" : `${MARGIN.right + 6}px`;
    if (document.activeElement === chart.canvas) chart.live.textContent = tip.innerText;
  }

  function why([after, current, target, reason, proposals, clamps]) {
    const block = element("div", { className: "why" }, element("b", { textContent: `${clock(after + 1)}: ${current} → ${target}, ${words(reason)}` }));
    for (const [rule, want, keep, , detail] of proposals)
      block.append(element("div", {}, element("b", { textContent: `${rule} ` }), `wants ${want}, keeps ${keep}: ${detail}`));
    for (const [rule, before, now, clampReason, detail] of clamps)
      block.append(element("div", {}, element("b", { textContent: `${rule} ` }), `${before} → ${now}, ${words(clampReason)}: ${detail}`));
    return block;
  }

  function list(chart) {
    const rows = chart.data.changes.filter(([after]) => after + 1 >= view.from && after + 1 < view.to);
    const table = element("table");
    const head = element("tr");
    for (const title of ["when", "replicas", "reason", "proposals and clamps"]) head.append(element("th", { scope: "col", textContent: title }));
    table.append(element("thead", {}, head));
    const body = element("tbody");
    for (const [after, current, target, reason, proposals, clamps] of rows) {
      const detail = [...proposals.map(([rule, want, keep, , text]) => `${rule} ${want}/${keep} (${text})`), ...clamps.map(([rule, a, b, cause]) => `${rule} ${a} → ${b} (${words(cause)})`)].join("; ");
      const cells = [`${weekday(after + 1)} ${clock(after + 1)}`, `${current} → ${target}`, words(reason), detail];
      body.append(element("tr", {}, ...cells.map((text) => element("td", { textContent: text }))));
    }
    table.append(body);
    chart.changes.replaceChildren(element("p", { textContent: `${rows.length} changes` }), table);
  }

  // ── Controls ──────────────────────────────────────────────────────────────────────────────────────────────

  let queued = false;
  function redraw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      for (const chart of charts) { draw(chart); describe(chart); }
    });
  }

  function zoom(from, to) {
    const span = Math.max(20, Math.min(BINS, Math.round(to - from)));
    view.from = Math.max(0, Math.min(BINS - span, Math.round(from)));
    view.to = view.from + span;
    for (const button of document.querySelectorAll("#days button"))
      button.setAttribute("aria-pressed", String(+button.dataset.from === view.from && +button.dataset.to === view.to));
    for (const chart of charts) if (chart.details.open) list(chart);
    redraw();
  }

  function controls() {
    const days = document.getElementById("days");
    const add = (label, from, to) => {
      const button = element("button", { type: "button", textContent: label, onclick: () => zoom(from, to) });
      Object.assign(button.dataset, { from, to });
      days.append(button);
    };
    add("Week", 0, BINS);
    if (week.learning) add("Scored days", week.learning, BINS);
    for (let from = 0; from < BINS; from += DAY) add(weekday(from), from, from + DAY);
    const legend = document.getElementById("legend");
    for (const series of SERIES) {
      const swatch = element("i", { className: series.fill ? "fill" : "" });
      const button = element("button", { type: "button" }, swatch, series.label);
      button.style.setProperty("--c", `var(${series.color})`);
      if (series.dash) swatch.style.borderTopStyle = "dashed";
      button.setAttribute("aria-pressed", String(shown.has(series.key)));
      button.onclick = () => {
        if (!shown.delete(series.key)) shown.add(series.key);
        button.setAttribute("aria-pressed", String(shown.has(series.key)));
        redraw();
      };
      legend.append(button);
    }
  }

  function listen(chart) {
    const { canvas } = chart;
    const inside = (event) => Math.max(chart.box.left, Math.min(chart.box.right, event.clientX - canvas.getBoundingClientRect().left));
    const point = (bin) => { chart.cursor = bin; redraw(); };
    canvas.addEventListener("pointermove", (event) => {
      if (chart.drag) chart.drag[1] = inside(event);
      point(chart.bin(inside(event)));
    });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      chart.drag = [inside(event), inside(event)];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", () => {
      const drag = chart.drag;
      chart.drag = null;
      if (drag && Math.abs(drag[1] - drag[0]) > 6) zoom(chart.bin(Math.min(...drag)), chart.bin(Math.max(...drag)) + 1);
      else redraw();
    });
    canvas.addEventListener("pointercancel", () => { chart.drag = null; redraw(); });
    canvas.addEventListener("pointerleave", () => { if (!chart.drag) point(null); });
    canvas.addEventListener("dblclick", () => zoom(0, BINS));
    canvas.addEventListener("blur", () => point(null));
    canvas.addEventListener("keydown", (event) => {
      const span = view.to - view.from, at = chart.cursor ?? Math.floor((view.from + view.to) / 2);
      const step = event.shiftKey ? 15 : 1;
      const keys = {
        ArrowLeft: () => point(Math.max(view.from, at - step)),
        ArrowRight: () => point(Math.min(view.to - 1, at + step)),
        "+": () => zoom(at - span / 4, at + span / 4),
        "-": () => zoom(at - span, at + span),
        0: () => zoom(0, BINS),
        Escape: () => point(null),
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    chart.details.addEventListener("toggle", () => { if (chart.details.open) list(chart); });
  }

  function trustRuns(data) {
    const names = Array.from(data.trust, (index) => week.trusts[index]);
    const blind = Array.from(data.reason, (index) => week.reasons[index] === "blind_demand");
    const kind = (i) => (blind[i] ? "--dark" : names[i] === "trusted" ? "--headstart" : names[i] === "no_forecast" ? "--learn" : "--reactive");
    return ["--dark", "--headstart", "--learn", "--reactive"].flatMap((color) =>
      runsOf(BINS, (i) => kind(i) === color).map(([a, b]) => [a, b, color, color === "--learn" ? 0.35 : 0.8]));
  }

  readColors();
  for (const holder of document.querySelectorAll(".chart")) {
    const article = holder.closest(".workload"), data = workload(week.workloads[+holder.dataset.workload]);
    data.trustRuns = trustRuns(data);
    const chart = {
      canvas: holder.querySelector("canvas"), tip: holder.querySelector(".tip"), live: article.querySelector(".live"),
      details: article.querySelector("details"), changes: article.querySelector(".changes"), data, cursor: null, drag: null,
    };
    charts.push(chart);
    listen(chart);
  }
  controls();
  zoom(0, BINS);
  for (const chart of charts) draw(chart);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); redraw(); });
  addEventListener("resize", redraw);
})();
