// The chart of effects once more, so that it answers to pointer and keyboard: a row for each comparison, with the dots of the
// groups, the mean and its interval. The data are those of the figure, which stands in the page and is shown without scripts.
"use strict";

document.querySelectorAll("script.chart-data").forEach((source) => {
  const holder = source.parentElement;
  const picture = holder.querySelector(".drawing-box");
  const MILLI = 1000;
  const factor = (row) => Object.keys(row)[0]; // the column that gives the panels
  const rows = [];
  for (const one of JSON.parse(source.textContent)) {
    const panel = String(one[factor(one)]).replaceAll("_", " ");
    let row = rows.find((other) => other.panel === panel && other.name === one.comparison);
    if (!row) rows.push((row = { panel, name: one.comparison, mean: one.mean, low: one.low, high: one.high, groups: [] }));
    row.groups.push(one.difference);
  }
  const milli = (value) => play.number(value * MILLI, 2, true);
  const verdict = (row) => (row.low === null ? "one" : row.low > 0 ? "gain" : row.high < 0 ? "loss" : "none");
  const WORDS = { gain: "a gain", loss: "a loss", none: "no difference shown", one: "one replicate, no interval" };
  const text = (row) => {
    const interval = row.low === null ? "" : `, 95 % interval ${milli(row.low)} to ${milli(row.high)}`;
    return `${row.name}, ${row.panel}: ${milli(row.mean)} thousandths of AUC${interval}, ${row.groups.length} replicates: ${WORDS[verdict(row)]}.`;
  };

  const words = play.element("p", { role: "status" }, "Point at a row, or press Tab and the arrow keys, to read its numbers.");
  const chart = play.element("div", { class: "chart" });
  let active = 0;

  function draw() {
    const width = Math.max(300, Math.min(760, holder.clientWidth));
    const narrow = width < 520;
    const longest = Math.max(...rows.map((row) => row.name.length));
    const left = narrow ? 12 : Math.min(width / 2, 20 + 7.6 * longest);
    const step = narrow ? 44 : 26;
    const panels = [...new Set(rows.map((row) => row.panel))];
    const height = panels.length * 58 + rows.length * step;
    const svg = play.shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Effects, a row for each comparison" });
    let y = 0;
    for (const panel of panels) {
      const here = rows.filter((row) => row.panel === panel);
      const shown = here.flatMap((row) => [row.low, row.high, row.mean, ...row.groups]).filter((value) => value !== null);
      const most = Math.max(...shown, 0);
      const least = Math.min(...shown, 0);
      const x = (value) => left + 10 + ((width - left - 24) * (value - least)) / (most - least || 1);
      svg.append(play.shape("text", { x: 4, y: y + 18, class: "chart-panel" }, panel));
      y += 30;
      const top = y;
      here.forEach((row) => {
        const n = rows.indexOf(row);
        const at = y + step - 12;
        const group = play.shape("g", { class: `chart-row chart-${verdict(row)}`, tabindex: n === active ? 0 : -1, role: "img", "aria-label": text(row) });
        group.append(
          play.shape("rect", { x: 0, y, width, height: step, class: "chart-band" }),
          play.shape("text", narrow ? { x: 4, y: y + 17 } : { x: left - 8, y: at + 4, "text-anchor": "end" }, row.name),
          ...row.groups.map((value) => play.shape("circle", { cx: x(value), cy: at + 5, r: 2.5, class: "chart-group" })),
        );
        if (row.low !== null) group.append(play.shape("line", { x1: x(row.low), x2: x(row.high), y1: at, y2: at }));
        group.append(play.shape("circle", { cx: x(row.mean), cy: at, r: 5 }));
        const show = () => (words.textContent = text(row));
        group.addEventListener("pointerenter", show);
        group.addEventListener("focus", show);
        group.addEventListener("keydown", (event) => {
          const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
          if (!move) return;
          event.preventDefault();
          const all = [...svg.querySelectorAll(".chart-row")];
          all[active].setAttribute("tabindex", -1);
          active = (n + move + rows.length) % rows.length;
          all[active].setAttribute("tabindex", 0);
          all[active].focus();
        });
        svg.append(group);
        y += step;
      });
      svg.append(play.shape("line", { x1: x(0), x2: x(0), y1: top, y2: y, class: "chart-zero" }));
      const ends = [[least, "start"], [most, "end"]].filter(([value]) => value !== 0 && Math.abs(x(value) - x(0)) > 60);
      for (const [value, anchor] of [[0, "middle"], ...ends])
        svg.append(play.shape("text", { x: x(value), y: y + 15, "text-anchor": anchor, class: "chart-tick" }, play.number(value * MILLI, 1, true)));
      y += 28;
    }
    chart.replaceChildren(svg, words);
  }

  picture.hidden = true;
  picture.before(chart);
  draw();
  let width = holder.clientWidth;
  new ResizeObserver(() => {
    if (holder.clientWidth !== width) {
      width = holder.clientWidth;
      draw();
    }
  }).observe(holder);
});
