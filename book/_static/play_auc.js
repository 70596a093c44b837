// Clicks and no clicks on a line of scores: move them, and see what AUC, accuracy and calibration make of it. AUC and log loss are
// those of ctrlib/stats/metrics.py, which a test compares.
"use strict";

play.auc = {
  // how often a click is above a no click, a tie counting one half
  auc(clicks, others) {
    let wins = 0;
    for (const click of clicks) for (const other of others) wins += click > other ? 1 : click === other ? 0.5 : 0;
    return wins / (clicks.length * others.length);
  },

  // the ROC curve as points [share of no clicks above, share of clicks above], from the highest threshold down
  roc(clicks, others) {
    const above = (values, t) => values.filter((value) => value >= t).length / values.length;
    const thresholds = [...new Set([...clicks, ...others])].sort((a, b) => b - a);
    return [[0, 0], ...thresholds.map((t) => [above(others, t), above(clicks, t)])];
  },

  accuracy(clicks, others, threshold) {
    const right = clicks.filter((p) => p >= threshold).length + others.filter((p) => p < threshold).length;
    return right / (clicks.length + others.length);
  },

  logloss(clicks, others) {
    const sum = (values) => values.reduce((total, p) => total - Math.log(p), 0);
    return (sum(clicks) + sum(others.map((p) => 1 - p))) / (clicks.length + others.length);
  },

  calibration(clicks, others) {
    return [...clicks, ...others].reduce((a, b) => a + b, 0) / clicks.length;
  },

  // quantiles of the standard normal distribution, so that the rows look like a sample and are always the same
  normal(count) {
    return Array.from({ length: count }, (_, n) => {
      const u = (n + 0.5) / count;
      let [low, high] = [-6, 6];
      for (let turn = 0; turn < 50; turn += 1) {
        const z = (low + high) / 2;
        const below = z < 0 ? tail(-z) : 1 - tail(z);
        if (below < u) low = z;
        else high = z;
      }
      return (low + high) / 2;
    });

    function tail(z) { // Abramowitz and Stegun 26.2.17, right to seven digits
      const t = 1 / (1 + 0.2316419 * z);
      const poly = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
      return (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * poly;
    }
  },
};

(() => {
  const stage = document.querySelector('[data-play="auc"]');
  if (!stage) return;
  const ROWS = 100;
  const START = { share: 10, gap: 1.2, size: 0, threshold: 0.5 };
  const state = { ...START, moved: {} }; // moved: a row that was dragged -> its score
  const active = [0, 0]; // the dot of each kind that the Tab key reaches

  const base = (share) => play.logit(share / ROWS) - 0.4;
  function scores() {
    const kinds = [state.share, ROWS - state.share];
    return kinds.map((count, kind) =>
      play.auc.normal(count).map((z, n) => state.moved[`${kind}.${n}`] ?? play.sigmoid(base(state.share) + 0.8 * z + state.size + (kind ? 0 : state.gap))),
    );
  }

  const slider = (name, label, options) => play.slider(label, { ...options, value: START[name], on: (value) => change({ [name]: value }) });
  const sliders = {
    share: slider("share", "Clicks among 100 rows", { min: 2, max: 50, step: 1, show: String }),
    gap: slider("gap", "How far clicks score higher", { min: -1, max: 5, step: 0.1, show: (v) => play.number(v, 1, true) }),
    size: slider("size", "Added to every logit", { min: -2, max: 4, step: 0.1, show: (v) => play.number(v, 1, true) }),
    threshold: slider("threshold", "Guess “click” from", { min: 0.01, max: 0.99, step: 0.01 }),
  };
  const preset = (label, changes) => play.button(label, () => change({ ...START, ...changes, moved: {} }));
  const line = play.element("div", { class: "play-picture" });
  const curve = play.element("div", { class: "play-picture play-roc" });
  const numbers = play.element("div", { class: "play-numbers" });
  const words = play.element("p", { role: "status" });
  stage.append(
    play.element("div", { class: "play-controls" }, ...Object.values(sliders).map((one) => one.row),
      play.element("p", {}, preset("Start again", {}), preset("Knows nothing", { gap: 0 }), preset("Perfect order", { gap: 5 }),
        preset("Rarer clicks", { share: 3 }))),
    line, play.element("div", { class: "play-pair" }, curve, numbers), words,
  );

  const x = (p) => 20 + 560 * p;
  function dot(kind, n, p) {
    const name = kind ? "no click" : "click";
    const y = kind ? 92 + 5 * ((n * 7) % 5) : 34 + 5 * ((n * 7) % 5);
    const made = play.shape(kind ? "circle" : "rect", {
      ...(kind ? { cx: x(p), cy: y, r: 5 } : { x: x(p) - 5, y: y - 5, width: 10, height: 10 }),
      fill: kind ? "var(--play-b)" : "var(--play-a)", "fill-opacity": 0.75, tabindex: active[kind] === n ? 0 : -1, role: "slider",
      "aria-label": `${name} ${n + 1}`, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": p.toFixed(2), "data-dot": `${kind}.${n}`,
    });
    made.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 0.01, ArrowLeft: -0.01, PageUp: 0.1, PageDown: -0.1 }[event.key];
      const next = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!move && !next) return;
      event.preventDefault();
      const count = kind ? ROWS - state.share : state.share;
      if (next) active[kind] = (n + next + count) % count;
      put(kind, move ? n : active[kind], move ? p + move : undefined);
    });
    made.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const svg = made.ownerSVGElement;
      const follow = (now) => {
        const box = line.getBoundingClientRect();
        active[kind] = n;
        put(kind, n, ((now.clientX - box.left) / box.width * 600 - 20) / 560);
      };
      const stop = () => ["pointermove", "pointerup", "pointercancel"].forEach((name, k) => window.removeEventListener(name, k ? stop : follow));
      window.addEventListener("pointermove", follow);
      window.addEventListener("pointerup", stop);
      window.addEventListener("pointercancel", stop);
      svg.style.touchAction = "none";
    });
    return made;
  }

  function put(kind, n, p) {
    if (p !== undefined) state.moved[`${kind}.${n}`] = Math.min(0.99, Math.max(0.01, p));
    change({});
    line.querySelector(`[data-dot="${kind}.${n}"]`).focus({ preventScroll: true });
  }

  function draw([clicks, others]) {
    const t = x(state.threshold);
    const svg = play.shape("svg", { viewBox: "0 0 600 150" });
    svg.append(
      play.shape("text", { x: 4, y: 16 }, "clicks: squares"), play.shape("text", { x: 4, y: 78 }, "no clicks: dots"),
      play.shape("line", { x1: 20, x2: 580, y1: 124, y2: 124, stroke: "currentcolor" }),
      play.shape("line", { x1: t, x2: t, y1: 20, y2: 124, stroke: "currentcolor", "stroke-dasharray": "4 3" }),
      ...[0, 0.25, 0.5, 0.75, 1].map((p) => play.shape("text", { x: x(p), y: 142, "text-anchor": "middle" }, String(p))),
      ...others.map((p, n) => dot(1, n, p)), ...clicks.map((p, n) => dot(0, n, p)),
    );
    line.replaceChildren(svg);
    const at = (a, b) => `${30 + 200 * a},${215 - 200 * b}`;
    const share = (values) => values.filter((p) => p >= state.threshold).length / values.length;
    const [fx, fy] = at(share(others), share(clicks)).split(",");
    const roc = play.shape("svg", { viewBox: "0 0 260 250", role: "img", "aria-label": "ROC curve: share of clicks found against share of no clicks taken for clicks" });
    roc.append(
      play.shape("rect", { x: 30, y: 15, width: 200, height: 200, fill: "none", stroke: "currentcolor", "stroke-opacity": 0.4 }),
      play.shape("line", { x1: 30, y1: 215, x2: 230, y2: 15, stroke: "currentcolor", "stroke-dasharray": "3 4" }),
      play.shape("polyline", { points: play.auc.roc(clicks, others).map((point) => at(...point)).join(" "), fill: "none", stroke: "var(--play-a)", "stroke-width": 2.5 }),
      play.shape("circle", { cx: fx, cy: fy, r: 6, fill: "var(--play-b)" }),
      play.shape("text", { x: 130, y: 240, "text-anchor": "middle" }, "no clicks above the threshold"),
      play.shape("text", { x: -115, y: 20, "text-anchor": "middle", transform: "rotate(-90)" }, "clicks above it"),
    );
    curve.replaceChildren(roc);
  }

  function change(changes) {
    if ("share" in changes || "gap" in changes || "size" in changes) state.moved = {};
    Object.assign(state, changes);
    for (const [name, one] of Object.entries(sliders)) one.set(state[name]);
    active.forEach((n, kind) => (active[kind] = Math.min(n, (kind ? ROWS - state.share : state.share) - 1)));
    const [clicks, others] = scores();
    draw([clicks, others]);
    const accuracy = play.auc.accuracy(clicks, others, state.threshold);
    const never = others.length / ROWS;
    const guess = others.length >= clicks.length ? "no click" : "click";
    const value = play.auc.auc(clicks, others);
    numbers.replaceChildren(
      play.table("What each measure says", ["", "these rows", "knowing nothing"], [
        ["AUC", play.number(value, 3), "0.500"],
        ["accuracy", play.number(accuracy, 3), play.number(never, 3)],
        ["log loss", play.number(play.auc.logloss(clicks, others), 3), play.number(-(1 - never) * Math.log(1 - never) - never * Math.log(never), 3)],
        ["calibration", play.number(play.auc.calibration(clicks, others), 2), "1.00"],
      ]),
    );
    const verdict = accuracy > never + 1e-9 ? "better than" : accuracy < never - 1e-9 ? "worse than" : "exactly what is had by";
    words.textContent = `A click scores above a no click in ${Math.round(100 * value)} of 100 pairs. The accuracy is ${verdict} always saying “${guess}”.`;
  }
  change({});
})();
