"use strict";
// Curves as inline SVG: one panel a number, one line a player, a kind of weights or a run. All panels share a cursor:
// the pointer or the arrow keys move it, and each says above itself what its lines are there. A line may have a band,
// from `low` to `high`; `axis` is what is counted along all of them.
(() => {
  const data = JSON.parse(document.getElementById("curves").textContent);
  const HEIGHT = 170, LEFT = 46, RIGHT = 8, TOP = 14, BOTTOM = 20, DASHES = ["", "6 3", "2 3", "8 3 2 3"];
  const styleOf = Object.fromEntries((data.runs || []).map((run) => [run.name, run]));
  const charts = [], axis = data.axis || "update";

  const svg = (name, attributes, parent, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };
  const said = (value, unit) => {
    if (value === null || value === undefined) return "–";
    if (unit === "share") return `${+(100 * value).toPrecision(4)} %`;
    const size = Math.abs(value);
    if (size >= 1e4 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
    return String(+value.toPrecision(4));
  };
  // All ticks of an axis in one notation, with as many digits as tell each exactly.
  const labels = (values, unit) => {
    const sizes = values.map(Math.abs).filter((size) => size > 0);
    if (unit === "share" || sizes.every((size) => size >= 1e-3 && size < 1e4)) return values.map((value) => said(value, unit));
    const exact = (digits) => values.every((value) => Math.abs(+value.toExponential(digits) - value) <= 1e-9 * Math.abs(value));
    const digits = [0, 1, 2, 3].find(exact) ?? 3;
    return values.map((value) => (value === 0 ? "0" : value.toExponential(digits).replace("e+", "e")));
  };
  const look = (line, index) => {
    const run = styleOf[line.name];
    return { stroke: `var(--c${(run ? run.color : index) % 8})`, "stroke-dasharray": DASHES[(run ? run.dash : 0) % 4] };
  };

  function ticks(low, high, log) {
    if (log) {
      const found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
        for (const m of Math.log10(high / low) > 3 ? [1] : [1, 2, 5]) found.push(m * 10 ** e);
      const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
      const every = Math.ceil(inside.length / 5);
      return inside.filter((_, index) => index % every === 0);
    }
    const power = 10 ** Math.floor(Math.log10((high - low) / 4));
    const lowest = (step) => Math.ceil(low / step - 1e-6), highest = (step) => Math.floor(high / step + 1e-6);
    const step = [10, 5, 2.5, 2, 1].map((m) => m * power).find((s) => highest(s) - lowest(s) >= 2);  // the widest with three
    const found = [];
    for (let n = lowest(step); n <= highest(step); n++) found.push(+(n * step).toPrecision(12));
    return found;
  }

  function range(values, log, unit) {
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high && (low === 0 || unit === "share")) return [0, 1];
    if (low === high) return log ? [low / 2, high * 2] : [low - (Math.abs(low) / 10 || 1), high + (Math.abs(high) / 10 || 1)];
    const pad = (high - low) * 0.05;
    return log ? [low / 1.1, high * 1.1] : [low - pad, high + pad];
  }

  function draw(chart) {
    const { panel, holder } = chart, width = Math.max(holder.clientWidth, 160);
    const values = panel.series.flatMap((line) => [...line.y, ...(line.low || []), ...(line.high || [])]).filter((value) => value !== null);
    const first = panel.from, last = Math.max(panel.to, first + 1);
    const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, tabindex: 0, role: "img" });
    const facts = [panel.title, ...(panel.unit ? [panel.unit] : []), ...(panel.log ? ["log scale"] : [])];
    root.setAttribute("aria-label", `${facts.join(", ")}: ` + panel.series.map((line) => {
      const known = line.y.filter((value) => value !== null);
      return `${line.name} from ${said(known[0], panel.unit)} to ${said(known[known.length - 1], panel.unit)}`;
    }).join("; ") + `. Arrow keys move along the ${axis}s.`);
    if (!values.length) values.push(0, 1);
    const [low, high] = range(values, panel.log, panel.unit), scale = panel.log ? Math.log10 : (value) => value;
    const x = (update) => LEFT + ((update - first) / (last - first)) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - (scale(value) - scale(low)) / (scale(high) - scale(low))) * (HEIGHT - TOP - BOTTOM);
    const up = ticks(low, high, panel.log), told = labels(up, panel.unit);
    up.forEach((value, index) => {
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }, root);
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, root, told[index]);
    });
    const across = ticks(first, last, false).filter(Number.isInteger).filter((_, index, all) => width > 260 || index % 2 === 0 || all.length < 4);
    for (const value of across)
      svg("text", { x: x(value), y: HEIGHT - 4, "text-anchor": x(value) > width - RIGHT - 14 ? "end" : "middle" }, root, value.toLocaleString("en"));
    const inside = data.marks.filter((mark) => mark.x >= first && mark.x < last);
    let free = 0; // where the last label ends
    if (data.marks.length > 1)
      for (const mark of inside) {
        svg("line", { class: "mark", x1: x(mark.x), x2: x(mark.x), y1: TOP, y2: HEIGHT - BOTTOM }, root);
        if (x(mark.x) < free) continue;
        svg("text", { x: x(mark.x) + 3, y: TOP - 4 }, root, mark.label);
        free = x(mark.x) + 8 + 7 * mark.label.length;
      }
    panel.series.forEach((line, index) => {
      if (!line.low) return;
      const edge = (values, order) => order.map((i) => `${x(line.x[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`), all = line.x.map((_, i) => i);
      const around = [...edge(line.high, all), ...edge(line.low, [...all].reverse())].join("L");
      svg("path", { class: "band", d: `M${around}Z`, fill: look(line, index).stroke }, root);
    });
    panel.series.forEach((line, index) => {
      let path = "", pen = "M";
      line.x.forEach((update, i) => {
        if (line.y[i] === null) { pen = "M"; return; }
        const begins = data.marks.some((mark) => mark.x >= (line.x[i - 1] ?? -1) && mark.x < update && mark.x > 0);
        path += `${begins ? "M" : pen}${x(update).toFixed(1)} ${y(line.y[i]).toFixed(1)}`;
        pen = "L";
      });
      svg("path", { class: "line", d: path, ...look(line, index) }, root);
      if (line.x.length < 25)
        line.x.forEach((update, i) => {
          if (line.y[i] !== null) svg("circle", { cx: x(update), cy: y(line.y[i]), r: 2.4, fill: look(line, index).stroke }, root);
        });
    });
    for (const point of panel.best || []) {
      const ring = svg("circle", { class: "best", cx: x(point.x), cy: y(point.y), r: 6 }, root);
      svg("title", {}, ring, `best point of its step: ${said(point.y, panel.unit)}`);
    }
    chart.cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }, root);
    Object.assign(chart, { x, root });
    root.addEventListener("pointermove", (event) => {
      const place = (event.clientX - root.getBoundingClientRect().left) * (width / root.getBoundingClientRect().width);
      move(chart, first + ((place - LEFT) / (width - LEFT - RIGHT)) * (last - first));
    });
    root.addEventListener("pointerleave", () => move(chart, null));
    root.addEventListener("blur", () => move(chart, null));
    root.addEventListener("keydown", (event) => keys(chart, event));
    holder.querySelector("svg")?.remove();
    holder.prepend(root);
  }

  function keys(chart, event) {
    const places = [...new Set(chart.panel.series.flatMap((line) => line.x))].sort((a, b) => a - b);
    const at = places.indexOf(chart.at);
    const to = { ArrowLeft: at < 0 ? places.length - 1 : at - 1, ArrowRight: at + 1, Home: 0, End: places.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(chart, places[Math.min(Math.max(to, 0), places.length - 1)]);
  }

  const nearest = (line, update) => line.x.reduce((best, x, i) => (Math.abs(x - update) < Math.abs(line.x[best] - update) ? i : best), 0);

  // The chart that is pointed at takes the nearest of its own updates; the others follow to it.
  function move(chart, update) {
    let to = update;
    if (to !== null) {
      const line = chart.panel.series.reduce((a, b) => (b.x.length > a.x.length ? b : a));
      to = line.x[nearest(line, update)];
    }
    for (const each of charts) {
      each.at = to;
      each.tip?.remove();
      each.cursor.setAttribute("visibility", to === null ? "hidden" : "visible");
      if (to === null) { each.readout.textContent = each.rest; continue; }
      if (to < each.panel.from || to > each.panel.to) { each.cursor.setAttribute("visibility", "hidden"); each.readout.textContent = ""; continue; }
      each.cursor.setAttribute("x1", each.x(to));
      each.cursor.setAttribute("x2", each.x(to));
      const values = each.panel.series.map((line) => said(line.y[nearest(line, to)], each.panel.unit));
      each.readout.textContent = `${axis} ${to.toLocaleString("en")}${values.length > 1 ? "" : `: ${values[0]}`}`;
      if (values.length > 1) tell(each, to, values);
    }
  }

  // Of several lines a box in the chart tells: a longer caption would move the page under the pointer.
  function tell(chart, update, values) {
    chart.tip = chart.tip || document.createElement("ul");
    chart.tip.className = chart.x(update) > chart.holder.clientWidth / 2 ? "tip left" : "tip";
    chart.tip.replaceChildren(...chart.panel.series.map((line, index) => entry(`${values[index]}  ${line.name}`, look(line, index))));
    chart.holder.append(chart.tip);
  }

  for (const holder of document.querySelectorAll("[data-panel]")) {
    const panel = data.panels[+holder.dataset.panel], readout = holder.parentElement.querySelector(".readout");
    const chart = { panel, holder, readout, rest: readout.textContent, at: null };
    charts.push(chart);
    draw(chart);
    if (panel.series.length > 1 && !data.runs) {
      const legend = document.createElement("ul");
      legend.className = "legend";
      panel.series.forEach((line, index) => legend.append(entry(line.name, look(line, index))));
      holder.append(legend);
    }
  }
  const shared = document.getElementById("runs-legend");
  if (shared) for (const run of data.runs) shared.append(entry(run.name, look({ name: run.name }, 0)));

  function entry(name, style) {
    const item = document.createElement("li"), picture = svg("svg", { viewBox: "0 0 24 10", "aria-hidden": "true" });
    svg("line", { x1: 0, x2: 24, y1: 5, y2: 5, "stroke-width": 2.5, ...style }, picture);
    item.append(picture, name);
    return item;
  }
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) { width = window.innerWidth; charts.forEach(draw); }
  });
})();
