// Two models and one row: what the label and the peer do to each prediction. The formulas are those of ctrlib/coupling.py for
// a group of two on a batch of one, and a test compares them.
"use strict";

play.coupling = {
  forms: { mse: "squared difference of probabilities", mse_logit: "squared difference of logits", kl: "KL divergence" },

  // the two parts of one model's loss and their gradients in its own logit; `peer` is held constant (detached)
  loss(own, peer, label, weight, form) {
    const [p, q] = [play.sigmoid(own), play.sigmoid(peer)];
    const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
    const parts = {
      mse: [(p - q) ** 2, 2 * (p - q) * p * (1 - p)],
      mse_logit: [(own - peer) ** 2, 2 * (own - peer)],
      kl: [q * (softplus(-own) - softplus(-peer)) + (1 - q) * (softplus(own) - softplus(peer)), p - q],
    };
    const [distance, pull] = parts[form];
    return { click: softplus(own) - label * own, peer: weight * distance, clickGradient: p - label, peerGradient: weight * pull };
  },
};

(() => {
  const COLOURS = ["var(--play-a)", "var(--play-b)"];
  const stage = document.querySelector('[data-play="coupling"]');
  if (!stage) return;
  const state = { p: [0.2, 0.23], label: 0, weight: 1, form: "mse" };
  const WEIGHTS = [0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];

  const sliders = [0, 1].map((n) =>
    play.slider(`Model ${"AB"[n]} predicts`, { min: 0.01, max: 0.99, step: 0.01, value: state.p[n], on: (p) => change(() => (state.p[n] = p)) }),
  );
  const weight = play.slider("Weight of the peer", {
    min: 0, max: WEIGHTS.length - 1, step: 1, value: WEIGHTS.indexOf(state.weight),
    show: (n) => String(WEIGHTS[n]), on: (n) => change(() => (state.weight = WEIGHTS[n])),
  });
  const label = play.element("fieldset", {}, play.element("legend", {}, "What happened"));
  ["no click", "click"].forEach((text, n) => {
    const input = play.element("input", { type: "radio", name: "play-label", value: n });
    input.checked = n === state.label;
    input.addEventListener("change", () => change(() => (state.label = n)));
    label.append(play.element("label", {}, input, text));
  });
  const form = play.element("select");
  for (const [name, text] of Object.entries(play.coupling.forms)) form.append(play.element("option", { value: name }, text));
  form.addEventListener("change", () => change(() => (state.form = form.value)));
  const step = play.button("Take a step", () =>
    change(() => {
      const z = state.p.map(play.logit);
      const pulls = gradients().map((one) => one.clickGradient + one.peerGradient);
      const moved = z.map((own, n) => play.sigmoid(own - Math.max(-1, Math.min(1, pulls[n]))));
      state.p = moved.map((p) => Math.min(0.99, Math.max(0.01, p)));
    }),
  );
  const reset = play.button("Start again", () => change(() => (state.p = [0.2, 0.23])));
  const picture = play.element("div", { class: "play-picture" });
  const numbers = play.element("div", { class: "play-numbers" });
  const words = play.element("p", { role: "status" });
  stage.append(
    play.element("div", { class: "play-controls" }, ...sliders.map((one) => one.row), weight.row, label,
      play.element("label", {}, play.element("span", {}, "Distance"), form), play.element("p", {}, step, reset)),
    picture, numbers, words,
  );

  const gradients = () => {
    const z = state.p.map(play.logit);
    return [0, 1].map((n) => play.coupling.loss(z[n], z[1 - n], state.label, state.weight, state.form));
  };

  // an arrow goes where gradient descent takes the logit; its length grows with the gradient and is cut at the edge
  function arrow(p, y, gradient, colour, dashed) {
    const x = 30 + 540 * p;
    const to = Math.min(585, Math.max(15, x - 300 * gradient));
    if (Math.abs(to - x) < 8) return play.shape("path", { d: `M${x} ${y - 3}v6M${x} ${y}H${to}`, stroke: colour, "stroke-width": 2.5 });
    const head = to > x ? -6 : 6;
    return play.shape("path", {
      d: `M${x} ${y}H${to}m${head} -5L${to} ${y}l${head} 5`, fill: "none", stroke: colour, "stroke-width": 2.5,
      "stroke-dasharray": dashed ? "5 3" : "none",
    });
  }

  function draw(found) {
    const axis = [0, 0.25, 0.5, 0.75, 1].map((p) => play.shape("text", { x: 30 + 540 * p, y: 196, "text-anchor": "middle" }, String(p)));
    const svg = play.shape("svg", { viewBox: "0 0 600 204", role: "img", "aria-label": "The two predictions on a line from 0 to 1, with arrows for the pull of the label and of the peer" });
    svg.append(play.shape("line", { x1: 30, x2: 570, y1: 178, y2: 178, stroke: "currentcolor" }), ...axis);
    const x = 30 + 540 * state.label;
    svg.append(
      play.shape("line", { x1: x, x2: x, y1: 12, y2: 178, stroke: "currentcolor", "stroke-dasharray": "2 4" }),
      play.shape("text", { x: x + (state.label ? -6 : 6), y: 14, "text-anchor": state.label ? "end" : "start" }, state.label ? "click" : "no click"),
    );
    found.forEach((one, n) => {
      const y = 38 + 74 * n;
      svg.append(
        arrow(state.p[n], y - 4, one.clickGradient, COLOURS[n], false),
        arrow(state.p[n], y + 28, one.peerGradient, COLOURS[n], true),
        play.shape("circle", { cx: 30 + 540 * state.p[n], cy: y + 12, r: 10, fill: COLOURS[n] }),
        play.shape("text", { x: 30 + 540 * state.p[n], y: y + 16.5, "text-anchor": "middle", class: "play-name" }, "AB"[n]),
      );
    });
    picture.replaceChildren(svg);
  }

  function sentence(one, n) {
    const total = one.clickGradient + one.peerGradient;
    const share = Math.abs(one.peerGradient) / (Math.abs(one.clickGradient) + Math.abs(one.peerGradient) || 1);
    const way = Math.abs(total) < 5e-4 ? "stays where it is" : `is moved ${total < 0 ? "up" : "down"}`;
    return `Model ${"AB"[n]} ${way}; ${Math.round(100 * share)} % of the pull on it comes from its peer.`;
  }

  function change(edit) {
    edit();
    sliders.forEach((one, n) => one.set(state.p[n]));
    const found = gradients();
    draw(found);
    numbers.replaceChildren(
      play.table("Loss and gradient in the model's own logit", ["", "model A", "model B"], [
        ["click loss", ...found.map((one) => play.number(one.click, 4))],
        ["peer's term", ...found.map((one) => play.number(one.peer, 4))],
        ["gradient of the click loss", ...found.map((one) => play.number(one.clickGradient, 4, true))],
        ["gradient of the peer's term", ...found.map((one) => play.number(one.peerGradient, 4, true))],
        ["both", ...found.map((one) => play.number(one.clickGradient + one.peerGradient, 4, true))],
      ]),
    );
    words.textContent = found.map(sentence).join(" ");
  }
  change(() => {});
})();
