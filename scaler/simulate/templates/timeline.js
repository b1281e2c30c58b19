// Charts over time on canvas that share one view: steps and lines, lanes below them, bands behind them.
// A chart is given its data when it is added and never computes any; the page is told of the cursor by `describe`.

const LANE_GAP = 3, LEAST_BINS = 20, HOUR_S = 3600, DAY_S = 86400;
const TICKS_S = [1, 5, 10, 30, 60, 300, 900, 1800, HOUR_S, 3 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S, DAY_S, 2 * DAY_S, 7 * DAY_S, 14 * DAY_S, 28 * DAY_S];

function niceStep(span, wanted) {
  const rough = span / wanted, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
}

// `startS`: Unix seconds of bin 0; `stepS`: its width; `sticky`: the cursor stays when the pointer leaves.
function timeline({ startS, stepS, bins, sticky = false, onView = () => {} }) {
  const view = { from: 0, to: bins }, charts = [], shown = new Set();
  const least = Math.min(LEAST_BINS, bins);

  // ── Time in words ─────────────────────────────────────────────────────────────────────────────────────────
  const at = (bin) => new Date((startS + bin * stepS) * 1000);
  const weekday = (bin) => at(bin).toLocaleDateString("en-GB", { weekday: "short", timeZone: "UTC" });
  const day = (bin) => `${weekday(bin)} ${at(bin).getUTCDate()}`;
  const clock = (bin) => at(bin).toISOString().slice(11, stepS < 60 ? 19 : 16);

  // ── Drawing ───────────────────────────────────────────────────────────────────────────────────────────────

  function layout(chart) {
    const { canvas, lanes } = chart, width = canvas.clientWidth, height = canvas.clientHeight;
    const below = lanes.reduce((sum, lane) => sum + lane.height + LANE_GAP, 0);
    const left = width < 560 ? Math.min(chart.left, 62) : chart.left;
    return { width, height, left, right: width - 14, top: 12, bottom: height - 22 - below - 4 };
  }

  function highest(values) {
    let top = 1;
    for (let i = view.from; i < view.to; i++) if (values[i] > top) top = values[i];
    return top;
  }

  // The ordered quantile may shoot far above everything after a surprise; the picture follows load and replicas.
  function ceiling(chart) {
    const solid = Math.max(1, ...chart.series.filter((each) => shown.has(each.key)).map((each) => highest(each.values)));
    const band = chart.band && shown.has(chart.band.key) ? Math.min(highest(chart.band.high), 1.5 * solid) : 0;
    return 1.06 * Math.max(solid, band);
  }

  // The picture without cursor and brush is kept until something of it changes: hovering then costs one copy.
  function draw(chart) {
    const { canvas } = chart, box = layout(chart), ratio = window.devicePixelRatio || 1;
    if (box.width < 50) return;
    const width = Math.round(box.width * ratio), height = Math.round(box.height * ratio);
    const fits = chart.still && chart.still.width === width && chart.still.height === height;
    if (chart.stale || !fits) {
      chart.still = still(chart, box, ratio, width, height);
      chart.stale = false;
    }
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.drawImage(chart.still, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (chart.cursor !== null) cursor(pen, chart);
    if (chart.drag && chart.drag.brush) {
      pen.fillStyle = theme.color("--band");
      pen.globalAlpha = 0.18;
      pen.fillRect(Math.min(chart.drag.from, chart.drag.to), box.top, Math.abs(chart.drag.to - chart.drag.from), box.bottom - box.top);
      pen.globalAlpha = 1;
    }
  }

  function still(chart, box, ratio, width, height) {
    const canvas = element("canvas", { width, height }), pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = "11px system-ui, sans-serif";
    const top = ceiling(chart), span = box.right - box.left;
    chart.box = box;
    chart.x = (bin) => box.left + ((bin - view.from) / (view.to - view.from)) * span;
    chart.y = (value) => box.bottom - (Math.min(value, top) / top) * (box.bottom - box.top);
    chart.bin = (x) => Math.max(view.from, Math.min(view.to - 1, Math.floor(view.from + ((x - box.left) / span) * (view.to - view.from))));
    for (const shade of chart.shades) paintShade(pen, chart, shade);
    grid(pen, chart, top);
    pen.save();
    pen.beginPath();
    pen.rect(box.left, box.top - 2, span, box.bottom - box.top + 4);
    pen.clip();
    if (chart.band && shown.has(chart.band.key)) band(pen, chart);
    for (const series of chart.series) if (shown.has(series.key)) line(pen, chart, series);
    pen.restore();
    lanes(pen, chart);
    return canvas;
  }

  function paintShade(pen, chart, { first, last, color, alpha, label }) {
    const { box } = chart;
    if (last <= view.from || first >= view.to) return;
    const x0 = Math.max(box.left, chart.x(first)), x1 = Math.min(box.right, Math.max(chart.x(last), chart.x(first) + 1.5));
    pen.globalAlpha = alpha;
    pen.fillStyle = theme.color(color);
    pen.fillRect(x0, box.top, x1 - x0, box.bottom - box.top);
    pen.globalAlpha = 1;
    if (!label) return;
    pen.textAlign = "left";
    pen.fillText(label, Math.max(box.left + 2, Math.min(x0 + 4, box.right - pen.measureText(label).width - 2)), box.top + 11);
  }

  function grid(pen, chart, top) {
    const { box } = chart;
    pen.lineWidth = 1;
    pen.textAlign = "right";
    const step = Math.max(1, niceStep(top, 5));
    for (let value = 0; value <= top; value += step) {
      const y = Math.round(chart.y(value)) + 0.5;
      pen.strokeStyle = theme.color(value ? "--grid" : "--line");
      pen.beginPath(); pen.moveTo(box.left, y); pen.lineTo(box.right, y); pen.stroke();
      pen.fillStyle = theme.color("--soft");
      pen.fillText(String(value), box.left - 7, y + 4);
    }
    pen.save();
    pen.translate(13, (box.top + box.bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText("replicas", 0, 0);
    pen.restore();
    hours(pen, chart);
  }

  function hours(pen, chart) {
    const { box } = chart, most = Math.max(2, Math.floor((box.right - box.left) / 84));
    const spanS = (view.to - view.from) * stepS, fromS = startS + view.from * stepS, toS = startS + view.to * stepS;
    const everyS = TICKS_S.find((each) => spanS / each <= most) || 56 * DAY_S;
    pen.textAlign = "center";
    for (let moment = Math.ceil(fromS / everyS) * everyS; moment <= toS; moment += everyS) {
      const bin = (moment - startS) / stepS, x = Math.round(chart.x(bin)) + 0.5, midnight = moment % DAY_S === 0;
      pen.strokeStyle = theme.color(midnight ? "--line" : "--grid");
      pen.beginPath(); pen.moveTo(x, box.top); pen.lineTo(x, box.bottom); pen.stroke();
      pen.fillStyle = theme.color("--soft");
      const text = midnight ? (everyS < DAY_S ? `${weekday(bin)} 00:00` : day(bin)) : clock(bin);
      const half = pen.measureText(text).width / 2;
      if (bin < view.to) pen.fillText(text, Math.min(Math.max(x, half + 2), box.width - half - 2), box.height - 7);
    }
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

  const dense = (chart) => view.to - view.from > 1.5 * (chart.box.right - chart.box.left);

  function line(pen, chart, series) {
    const { values } = series, crowded = dense(chart);
    pen.strokeStyle = pen.fillStyle = theme.color(series.color);
    pen.lineWidth = (series.width || 1.8) * (crowded && !series.steps ? 0.75 : 1);
    pen.lineJoin = "round";
    pen.setLineDash((!crowded && series.dash) || []); // dashes of upright strokes are noise, and slow
    pen.beginPath();
    let open = false;
    if (crowded) {
      columns(chart, values, (x, low, high) => {
        if (high < low) { open = false; return; }
        if (open) pen.lineTo(x, chart.y(low)); else pen.moveTo(x, chart.y(low));
        pen.lineTo(x, chart.y(high));
        open = true;
      });
    } else {
      for (let i = view.from; i < view.to; i++) {
        if (Number.isNaN(values[i])) { open = false; continue; }
        const y = chart.y(values[i]), x0 = series.steps ? chart.x(i) : chart.x(i + 0.5);
        if (open) pen.lineTo(x0, y); else pen.moveTo(x0, y);
        if (series.steps) pen.lineTo(chart.x(i + 1), y);
        open = true;
      }
    }
    pen.stroke();
    pen.setLineDash([]);
    if (series.area) area(pen, chart, values);
  }

  function area(pen, chart, values) {
    pen.globalAlpha = 0.1;
    if (dense(chart)) {
      columns(chart, values, (x, low, high) => { if (high >= low) pen.fillRect(x, chart.y(high), 1, chart.box.bottom - chart.y(high)); });
    } else {
      for (let i = view.from; i < view.to; i++) {
        const x = chart.x(i), y = chart.y(values[i]);
        if (!Number.isNaN(y)) pen.fillRect(x, y, chart.x(i + 1) - x, chart.box.bottom - y);
      }
    }
    pen.globalAlpha = 1;
  }

  function band(pen, chart) {
    const { low: lows, high: highs, color } = chart.band;
    const upper = [], lower = [];
    const trace = (points) => { pen.beginPath(); points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y))); };
    const flush = () => {
      if (upper.length > 1) {
        pen.fillStyle = pen.strokeStyle = theme.color(color);
        trace([...upper, ...lower.slice().reverse()]);
        pen.closePath();
        pen.globalAlpha = 0.24;
        pen.fill();
        pen.globalAlpha = 0.85;
        pen.lineWidth = 1;
        trace(upper);
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
    if (dense(chart)) {
      const tops = [];
      columns(chart, highs, (x, low, high) => tops.push(high));
      let i = 0;
      columns(chart, lows, (x, low) => add(x, low, tops[i++]));
    } else {
      for (let i = view.from; i < view.to; i++) add(chart.x(i + 0.5), lows[i], highs[i]);
    }
    flush();
  }

  // A lane holds `spans` [first, last, colour, alpha] or `moves` [bin, from, to].
  function lanes(pen, chart) {
    const { box } = chart;
    let y = box.bottom + 8;
    for (const lane of chart.lanes) {
      const span = (first, last, color, alpha = 1) => {
        if (last <= view.from || first >= view.to) return;
        const x0 = Math.max(box.left, chart.x(first)), x1 = Math.min(box.right, chart.x(last));
        pen.globalAlpha = alpha;
        pen.fillStyle = theme.color(color);
        pen.fillRect(x0, y, Math.max(1.4, x1 - x0), lane.height);
        pen.globalAlpha = 1;
      };
      pen.fillStyle = theme.color("--soft");
      pen.textAlign = "right";
      pen.font = "10px system-ui, sans-serif";
      pen.fillText(shortened(pen, lane.label, box.left - 9), box.left - 7, y + lane.height - 0.5);
      span(view.from, view.to, "--grid", 0.6);
      for (const each of lane.spans || []) span(...each);
      if (lane.moves) moves(pen, chart, lane, y);
      y += lane.height + LANE_GAP;
    }
    pen.font = "11px system-ui, sans-serif";
  }

  function shortened(pen, text, room) {
    if (pen.measureText(text).width <= room) return text;
    let kept = text;
    while (kept && pen.measureText(`${kept}…`).width > room) kept = kept.slice(0, -1);
    return `${kept}…`;
  }

  function moves(pen, chart, lane, y) {
    const wide = (chart.box.right - chart.box.left) / (view.to - view.from) > 0.7;
    for (const [bin, current, target] of lane.moves) {
      if (bin < view.from || bin >= view.to) continue;
      const x = chart.x(bin), out = target > current;
      pen.fillStyle = theme.color(out ? lane.color : "--soft");
      if (!wide) {
        pen.fillRect(x, out ? y : y + lane.height / 2, 1, lane.height / 2);
        continue;
      }
      pen.beginPath();
      pen.moveTo(x, out ? y : y + lane.height);
      pen.lineTo(x - 4, out ? y + lane.height : y);
      pen.lineTo(x + 4, out ? y + lane.height : y);
      pen.fill();
    }
  }

  function cursor(pen, chart) {
    const { box, cursor: bin } = chart;
    if (bin < view.from || bin >= view.to) return;
    const x = Math.round(chart.x(bin + 0.5)) + 0.5;
    pen.strokeStyle = theme.color("--ink");
    pen.globalAlpha = 0.55;
    pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(x, box.top); pen.lineTo(x, box.height - 20); pen.stroke();
    pen.globalAlpha = 1;
    for (const series of chart.series) {
      const value = series.values[bin];
      if (!shown.has(series.key) || !Number.isFinite(value)) continue;
      pen.fillStyle = theme.color(series.color);
      pen.beginPath(); pen.arc(x, chart.y(value), 3.2, 0, 7); pen.fill();
    }
  }

  // ── The view ──────────────────────────────────────────────────────────────────────────────────────────────

  let queued = false;
  function redraw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      for (const chart of charts) { draw(chart); chart.describe(chart); }
    });
  }

  function restyle() {
    for (const chart of charts) chart.stale = true;
    redraw();
  }

  function zoom(from, to) {
    const span = Math.max(least, Math.min(bins, Math.round(to - from)));
    view.from = Math.max(0, Math.min(bins - span, Math.round(from)));
    view.to = view.from + span;
    onView(view);
    restyle();
  }

  const pan = (by) => zoom(view.from + by, view.to + by);

  // Zooms by `factor` so that the place of `bin` stays where it is.
  function scale(factor, bin) {
    const from = bin - (bin - view.from) * factor;
    zoom(from, from + (view.to - view.from) * factor);
  }

  function point(chart, bin) {
    chart.cursor = bin === null ? null : Math.max(0, Math.min(bins - 1, bin));
    if (bin !== null && chart.cursor < view.from) pan(chart.cursor - view.from);
    else if (bin !== null && chart.cursor >= view.to) pan(chart.cursor + 1 - view.to);
    else redraw();
  }

  // Shows `bin` in the middle without changing how much is in view.
  function visit(chart, bin) {
    chart.cursor = bin;
    pan(bin - Math.round((view.from + view.to) / 2));
  }

  // ── Hands ─────────────────────────────────────────────────────────────────────────────────────────────────

  const inside = (chart, event) => Math.max(chart.box.left, Math.min(chart.box.right, event.clientX - chart.canvas.getBoundingClientRect().left));

  function pointing(chart) {
    const { canvas } = chart;
    canvas.addEventListener("pointermove", (event) => {
      const x = inside(chart, event), { drag } = chart;
      if (drag) drag.to = x;
      if (!drag || drag.brush) { point(chart, chart.bin(x)); return; }
      const by = ((drag.from - x) / (chart.box.right - chart.box.left)) * (view.to - view.from);
      zoom(drag.view + by, drag.view + by + view.to - view.from);
    });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 1) return;
      const x = inside(chart, event), touch = event.pointerType === "touch";
      chart.drag = { brush: !touch && !event.shiftKey && event.button === 0, from: x, to: x, view: view.from };
      if (touch) point(chart, chart.bin(x));
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", () => {
      const { drag } = chart;
      chart.drag = null;
      if (drag && drag.brush && Math.abs(drag.to - drag.from) > 6) zoom(chart.bin(Math.min(drag.from, drag.to)), chart.bin(Math.max(drag.from, drag.to)) + 1);
      else redraw();
    });
    canvas.addEventListener("pointercancel", () => { chart.drag = null; redraw(); });
    canvas.addEventListener("pointerleave", () => { if (!chart.drag && !sticky) point(chart, null); });
    canvas.addEventListener("dblclick", () => zoom(0, bins));
    canvas.addEventListener("blur", () => { if (!sticky) point(chart, null); });
    canvas.addEventListener("wheel", (event) => wheel(chart, event), { passive: false });
  }

  // The wheel belongs to the page until a chart is clicked: nobody wants to be caught on the way down.
  function wheel(chart, event) {
    const { deltaX, deltaY } = event, sideways = event.shiftKey ? deltaX || deltaY : deltaX, unit = event.deltaMode ? 16 : 1;
    const all = view.to - view.from === bins;
    if (event.shiftKey || Math.abs(deltaX) > Math.abs(deltaY)) {
      if (all) return;
      event.preventDefault();
      pan(((sideways * unit) / (chart.box.right - chart.box.left)) * (view.to - view.from));
      return;
    }
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== chart.canvas) return;
    if (all && deltaY > 0 && !event.ctrlKey) return;
    event.preventDefault();
    const limited = Math.max(-240, Math.min(240, deltaY * unit));
    scale(Math.exp(limited / (event.ctrlKey ? 240 : 480)), view.from + ((inside(chart, event) - chart.box.left) / (chart.box.right - chart.box.left)) * (view.to - view.from));
  }

  function keys(chart) {
    chart.canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const span = view.to - view.from, middle = Math.floor((view.from + view.to) / 2);
      const here = chart.cursor !== null && chart.cursor >= view.from && chart.cursor < view.to ? chart.cursor : middle;
      const step = event.shiftKey ? 15 : 1;
      const actions = {
        ArrowLeft: () => point(chart, here - step),
        ArrowRight: () => point(chart, here + step),
        PageUp: () => pan(-span / 2),
        PageDown: () => pan(span / 2),
        Home: () => point(chart, 0),
        End: () => point(chart, bins - 1),
        "+": () => scale(0.5, here),
        "=": () => scale(0.5, here),
        "-": () => scale(2, here),
        0: () => zoom(0, bins),
        Escape: () => point(chart, null),
        ...chart.keys,
      };
      if (!actions[event.key]) return;
      event.preventDefault();
      actions[event.key]();
    });
  }

  // ── What a page does with it ──────────────────────────────────────────────────────────────────────────────

  // {canvas, left, series, band, lanes, shades, describe, keys}; what is drawn first lies lowest.
  function add(given) {
    const chart = { left: 64, band: null, lanes: [], shades: [], keys: {}, describe() {}, ...given, cursor: null, drag: null, still: null, stale: true };
    charts.push(chart);
    pointing(chart);
    keys(chart);
    draw(chart);
    chart.describe(chart);
    return chart;
  }

  // One button a series that hides and shows it.
  function legend(holder, items) {
    for (const item of items) {
      if (item.on) shown.add(item.key);
      const swatch = element("i", { className: item.fill ? "fill" : "" });
      const button = element("button", { type: "button" }, swatch, item.label);
      button.style.setProperty("--c", `var(${item.color})`);
      if (item.dash) swatch.style.borderTopStyle = item.dash[0] > 2 ? "dashed" : "dotted";
      const press = () => button.setAttribute("aria-pressed", String(shown.has(item.key)));
      button.onclick = () => {
        if (!shown.delete(item.key)) shown.add(item.key);
        press();
        restyle();
      };
      press();
      holder.append(button);
    }
  }

  theme.onChange(restyle);
  addEventListener("resize", redraw);
  return { bins, stepS, view, add, at, clock, day, weekday, legend, pan, point, redraw, restyle, scale, visit, zoom };
}
