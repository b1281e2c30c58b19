// Points and lines over two measures, drawn as SVG: axes that suit shares and ratios, names that keep out of each
// other's way, and a nearest point for the pointer and the arrow keys.

const SVG = "http://www.w3.org/2000/svg";
const SHARES = [0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1];

function shape(tag, attributes, parent) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.append(node);
  return node;
}

function evenly(low, high, wanted) {
  const step = niceStep(high - low, wanted), ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i++) ticks.push(+(i * step).toPrecision(12));
  return ticks;
}

// An axis turns a value into a share 0 … 1 of its length; `sqrt` spreads small shares without losing the zero.
function axis({ low, high, root = false, ticks, text, title }) {
  const bent = root ? Math.sqrt : (value) => value;
  const share = (value) => (bent(Math.max(low, value)) - bent(low)) / (bent(high) - bent(low) || 1);
  return { low, high, share, ticks: ticks || evenly, text, title, root };
}

// {label, x, y, lines: [{name, color, dash, points: [{x, y, name, tell}], marks}], target: {y, text}, frontier}
function plane(holder, spoken, make) {
  const svg = shape("svg", { tabindex: "0", role: "img" }, holder);
  const bubble = element("div", { className: "bubble", hidden: true });
  holder.append(bubble);
  let points = [], frame = null, chosen = null;

  function draw() {
    const width = holder.clientWidth, height = holder.clientHeight;
    if (width < 60) return;
    const picture = make(width);
    frame = { left: 66, right: width - (picture.room || 16), top: 12, bottom: height - 44 };
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", picture.label);
    const px = (value) => frame.left + picture.x.share(value) * (frame.right - frame.left);
    const py = (value) => frame.bottom - picture.y.share(value) * (frame.bottom - frame.top);
    axes(picture, px, py, width);
    if (picture.frontier) shape("path", { class: "frontier", d: path(picture.frontier, px, py) }, svg);
    points = [];
    for (const line of picture.lines) trace(line, px, py);
    label(width, Boolean(picture.room));
    chosen = null;
    bubble.hidden = true;
  }

  const path = (list, px, py) => list.map((point, i) => `${i ? "L" : "M"}${px(point.x).toFixed(1)} ${py(point.y).toFixed(1)}`).join("");

  function axes({ x, y, target }, px, py, width) {
    const text = (value, attributes) => { shape("text", attributes, svg).textContent = value; };
    let last = Infinity;
    for (const value of y.root ? SHARES.filter((each) => each >= y.low && each <= y.high) : evenly(y.low, y.high, 6)) {
      const at = py(value);
      if (last - at < 17) continue;
      last = at;
      shape("line", { class: "tick", x1: frame.left, x2: frame.right, y1: at, y2: at }, svg);
      text(y.text(value), { x: frame.left - 8, y: at + 4, "text-anchor": "end" });
    }
    for (const value of evenly(x.low, x.high, Math.max(3, Math.floor((frame.right - frame.left) / 70)))) {
      shape("line", { class: "tick", x1: px(value), x2: px(value), y1: frame.top, y2: frame.bottom }, svg);
      text(x.text(value), { x: px(value), y: frame.bottom + 17, "text-anchor": "middle" });
    }
    shape("path", { class: "axis", fill: "none", d: `M${frame.left} ${frame.top}V${frame.bottom}H${frame.right}` }, svg);
    text(x.title, { x: (frame.left + frame.right) / 2, y: frame.bottom + 37, "text-anchor": "middle" });
    text(y.title, { transform: `translate(11 ${(frame.top + frame.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" });
    if (!target) return;
    shape("line", { class: "target", x1: frame.left, x2: frame.right, y1: py(target.y), y2: py(target.y) }, svg);
    text(target.text, { class: "aim", x: frame.right - 2, y: py(target.y) - 5, "text-anchor": "end" });
  }

  function trace(line, px, py) {
    const group = shape("g", { class: "line" }, svg);
    group.style.setProperty("--c", `var(${line.color})`);
    const inside = line.points.filter((point) => point.x !== null && point.y !== null);
    if (line.points.length > 1) shape("path", { class: "path", d: path(inside, px, py), "stroke-dasharray": (line.dash || []).join(" ") }, group);
    for (const point of inside) {
      const cx = px(point.x), cy = py(point.y), r = point.size || 3;
      if (point.kind === "hindsight") shape("rect", { class: "mark hindsight", x: cx - 4.5, y: cy - 4.5, width: 9, height: 9, transform: `rotate(45 ${cx} ${cy})` }, group);
      else shape("circle", { class: `mark ${point.kind || ""}`, cx, cy, r }, group);
      points.push({ ...point, cx, cy, r, group, color: line.color, mine: line.mine });
    }
  }

  // Names of the marked points, each at the first side where it covers neither a mark nor another name.
  function label(width, ends) {
    const taken = points.filter((point) => point.named).map(({ cx, cy, r }) => [cx - r - 1, cy - r - 1, cx + r + 1, cy + r + 1]);
    const overlaps = ([a, b, c, d]) => taken.some(([e, f, g, h]) => a < g && c > e && b < h && d > f);
    for (const point of points.filter((each) => each.named).sort((one, other) => Number(other.mine || 0) - Number(one.mine || 0))) {
      const node = shape("text", { class: `name${point.mine ? " mine" : ""}`, x: 0, y: 0 }, svg);
      node.textContent = point.named;
      const long = node.getComputedTextLength(), { cx, cy } = point, gap = (point.r || 3) + 5;
      const sides = [[cx + gap, cy + 4], [cx - gap - long, cy + 4], [cx - long / 2, cy - gap - 1], [cx - long / 2, cy + gap + 10], [cx + gap, cy - 10], [cx + gap, cy + 18], [cx - gap - long, cy - 10], [cx - gap - long, cy + 18]];
      if (ends) sides.splice(1, 0, ...sides.splice(4, 2));
      const boxes = sides.map(([x, y]) => [x - 1, y - 11, x + long + 1, y + 3]);
      const at = boxes.findIndex((box) => box[0] > frame.left && box[2] < width && box[1] > 0 && box[3] < frame.bottom + 4 && !overlaps(box));
      if (at < 0) { node.remove(); continue; }
      node.setAttribute("x", sides[at][0]);
      node.setAttribute("y", sides[at][1]);
      taken.push(boxes[at]);
    }
  }

  function choose(index) {
    chosen = index;
    svg.querySelector(".halo")?.remove();
    for (const group of svg.querySelectorAll(".line")) group.classList.toggle("faded", index !== null && group !== points[index].group);
    bubble.hidden = index === null;
    if (index === null) return;
    const { cx, cy, r, name, tell, color } = points[index];
    shape("circle", { class: "halo", cx, cy, r: r + 4 }, svg);
    bubble.style.setProperty("--c", `var(${color})`);
    bubble.replaceChildren(element("b", { textContent: name }), ...tell.map((text) => element("div", { textContent: text })));
    const { width, height } = bubble.getBoundingClientRect();
    bubble.style.left = `${Math.max(0, Math.min(holder.clientWidth - width, cx > holder.clientWidth / 2 ? cx - width - 12 : cx + 12))}px`;
    bubble.style.top = `${Math.max(0, Math.min(frame.bottom - height, cy - height - 8))}px`;
    if (document.activeElement === svg) spoken.textContent = [name, ...tell].join(", ");
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = 28;
    points.forEach((point, i) => {
      const far = Math.hypot(point.cx - x, point.cy - y) - (point.named ? 3 : 0);
      if (far < least) [best, least] = [i, far];
    });
    choose(best);
  });
  svg.addEventListener("pointerleave", () => choose(null));
  svg.addEventListener("blur", () => choose(null));
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") choose(null);
    if (!by || !points.length) return;
    event.preventDefault();
    choose(chosen === null ? 0 : (chosen + by + points.length) % points.length);
  });
  new ResizeObserver(draw).observe(holder);
  draw();
  return draw;
}
