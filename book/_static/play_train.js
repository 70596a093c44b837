// Train factorization machines in the page, alone and with peers. Loss and gradients are those of ctrlib/models/fm.py and
// ctrlib/coupling.py, the steps those of torch's Adam, the AUC that of ctrlib/stats/metrics.py, and tests compare them.
// The law is a small relative of ctrlib/data/synthetic.py: Zipf ids, first-order effects and planted pairs, no clusters or triples.
"use strict";

play.train = {
  dims: [4, 6, 9, 14, 21, 32, 48], // ids of each field
  pairs: [[0, 6], [1, 5], [2, 4], [3, 5]], // of fields
  rows: { train: 4000, test: 5000 },
  logit: { mean: -1.5, sd: 1.5 }, // about one row in four is clicked
  dim: 6, // of an embedding
  batch: 100,
  rate: 0.01,
  epochs: 15,

  // numbers in [0, 1) that follow from the seed (mulberry32), and standard normal ones
  random(seed) {
    let state = Math.imul(seed + 1, 0x9e3779b1);
    const uniform = () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
    const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    return { uniform, normal };
  },

  // where the ids of each field begin when the tables of all fields are stacked, and their number
  stack(dims) {
    const offsets = [0];
    for (const dim of dims) offsets.push(offsets.at(-1) + dim);
    return offsets;
  },

  // training and test rows of one draw of the law: ids (rows x fields, stacked), labels and true logits
  data(seed) {
    const { dims, pairs, rows, logit } = play.train;
    const { uniform, normal } = play.train.random(seed);
    const offsets = play.train.stack(dims);
    const laws = dims.map((dim) => {
      let sum = 0;
      const law = Array.from({ length: dim }, (_, id) => (sum += (id + 1) ** -1.1));
      return law.map((part) => part / sum);
    });
    const first = Array.from({ length: offsets.at(-1) }, () => 0.35 * normal());
    const latent = Array.from({ length: offsets.at(-1) }, () => [normal(), normal(), normal()]);
    const make = (count) => {
      const ids = new Int32Array(count * dims.length);
      const raw = new Float64Array(count);
      for (let row = 0; row < count; row += 1) {
        const code = laws.map((law, field) => {
          const u = uniform();
          return offsets[field] + law.findIndex((border) => u < border);
        });
        ids.set(code, row * dims.length);
        for (const id of code) raw[row] += first[id];
        for (const [a, b] of pairs) raw[row] += 0.8 * latent[code[a]].reduce((sum, value, k) => sum + value * latent[code[b]][k], 0);
      }
      return { ids, raw };
    };
    const parts = { train: make(rows.train), test: make(rows.test) };
    const { raw } = parts.train;
    const mean = raw.reduce((a, b) => a + b) / raw.length;
    const scale = logit.sd / Math.sqrt(raw.reduce((sum, value) => sum + (value - mean) ** 2, 0) / raw.length);
    for (const part of Object.values(parts)) {
      part.logits = part.raw.map((value) => logit.mean + scale * (value - mean));
      part.labels = Float64Array.from(part.logits, (z) => Number(uniform() < play.sigmoid(z)));
    }
    return parts;
  },

  // a factorization machine: all its parameters in one array, embeddings, then first-order weights, then the bias
  model(dims, dim, seed) {
    const count = play.train.stack(dims).at(-1);
    const { normal } = play.train.random(seed);
    const parameters = Float64Array.from({ length: count * (dim + 1) + 1 }, () => 0.01 * normal());
    parameters[parameters.length - 1] = 0;
    return { fields: dims.length, dim, count, parameters, mean: parameters.map(() => 0), square: parameters.map(() => 0), steps: 0 };
  },

  copy: (model) => ({ ...model, parameters: model.parameters.slice(), mean: model.mean.slice(), square: model.square.slice() }),

  // logits of rows whose ids (rows x fields) are stacked; `sums`, if given, receives the sum of each row's embeddings
  logits({ fields, dim, count, parameters }, ids, sums) {
    const rows = ids.length / fields;
    const found = new Float64Array(rows);
    const first = count * dim;
    for (let row = 0; row < rows; row += 1) {
      let logit = parameters[parameters.length - 1];
      for (let field = 0; field < fields; field += 1) logit += parameters[first + ids[row * fields + field]];
      for (let k = 0; k < dim; k += 1) {
        let sum = 0;
        let squares = 0;
        for (let field = 0; field < fields; field += 1) {
          const value = parameters[ids[row * fields + field] * dim + k];
          sum += value;
          squares += value * value;
        }
        logit += (sum * sum - squares) / 2;
        if (sums) sums[row * dim + k] = sum;
      }
      found[row] = logit;
    }
    return found;
  },

  // click loss and peer loss of a model on a batch and the gradient of both together; `peers` are logits, held constant
  gradients(model, ids, labels, peers, weight) {
    const { fields, dim, count, parameters } = model;
    const rows = labels.length;
    const sums = new Float64Array(rows * dim);
    const logits = play.train.logits(model, ids, sums);
    const gradient = new Float64Array(parameters.length);
    const share = weight / (peers.length || 1);
    let [click, peer] = [0, 0];
    for (let row = 0; row < rows; row += 1) {
      const z = logits[row];
      const p = play.sigmoid(z);
      click += (Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))) - labels[row] * z) / rows;
      let slope = (p - labels[row]) / rows;
      for (const other of peers) {
        const difference = p - play.sigmoid(other[row]);
        peer += (share * difference * difference) / rows;
        slope += (2 * share * difference * p * (1 - p)) / rows;
      }
      for (let field = 0; field < fields; field += 1) {
        const id = ids[row * fields + field];
        gradient[count * dim + id] += slope;
        for (let k = 0; k < dim; k += 1) gradient[id * dim + k] += slope * (sums[row * dim + k] - parameters[id * dim + k]);
      }
      gradient[parameters.length - 1] += slope;
    }
    return { click, peer, gradient };
  },

  // one step of every model on a batch; with a weight each hears the others, as they are now or as `frozen` ones were
  step(models, ids, labels, weight, frozen) {
    const heard = weight ? (frozen ?? models).map((model) => play.train.logits(model, ids)) : [];
    const found = models.map((model, n) => play.train.gradients(model, ids, labels, heard.filter((_, i) => i !== n), weight));
    models.forEach((model, n) => play.train.adam(model, found[n].gradient));
    return found;
  },

  adam(model, gradient) {
    const { parameters, mean, square } = model;
    model.steps += 1;
    const size = play.train.rate / (1 - 0.9 ** model.steps);
    const correction = 1 - 0.999 ** model.steps;
    for (let k = 0; k < parameters.length; k += 1) {
      mean[k] += 0.1 * (gradient[k] - mean[k]);
      square[k] += 0.001 * (gradient[k] * gradient[k] - square[k]);
      parameters[k] -= (size * mean[k]) / (Math.sqrt(square[k] / correction) + 1e-8);
    }
  },

  // how often a click is above a no click, a tie counting one half
  auc(labels, scores) {
    const kinds = [0, 1].map((kind) => new Float64Array(labels.filter((label) => label === kind).length));
    const filled = [0, 0];
    for (let row = 0; row < labels.length; row += 1) kinds[labels[row]][filled[labels[row]]++] = scores[row];
    const [others, clicks] = kinds.map((values) => values.sort());
    let [wins, below, upto] = [0, 0, 0];
    for (const click of clicks) {
      while (below < others.length && others[below] < click) below += 1;
      while (upto < others.length && others[upto] <= click) upto += 1;
      wins += (below + upto) / 2;
    }
    return wins / (clicks.length * others.length);
  },

  // the mean test AUC of the models, and that of their mean probability
  judge(models, { ids, labels }) {
    const mean = new Float64Array(labels.length);
    let sum = 0;
    for (const model of models) {
      const p = play.train.logits(model, ids).map(play.sigmoid);
      for (let row = 0; row < p.length; row += 1) mean[row] += p[row] / models.length;
      sum += play.train.auc(labels, p);
    }
    return { one: sum / models.length, average: play.train.auc(labels, mean) };
  },

  // the whole training, a step at a time; yields the test AUCs after each epoch and null after the other steps
  *run({ size, weight, start, frozen, draw }) {
    const { dims, dim, batch, epochs } = play.train;
    const { train, test } = play.train.data(draw);
    const { uniform } = play.train.random(1000 + draw);
    const alone = Array.from({ length: size }, (_, n) => play.train.model(dims, dim, 2000 + 10 * draw + n));
    const oracle = play.train.auc(test.labels, test.logits);
    let [coupled, held] = [null, null]; // until the coupling starts its models are those that train alone
    for (let epoch = 0; epoch < epochs; epoch += 1) {
      if (epoch === start) {
        coupled = alone.map(play.train.copy);
        held = frozen ? alone.map(play.train.copy) : null;
      }
      const order = Array.from(train.labels, (_, row) => [uniform(), row]).sort((a, b) => a[0] - b[0]).map(([, row]) => row);
      for (let from = 0; from < order.length; from += batch) {
        const rows = order.slice(from, from + batch);
        const ids = rows.flatMap((row) => [...train.ids.subarray(row * dims.length, (row + 1) * dims.length)]);
        const labels = rows.map((row) => train.labels[row]);
        play.train.step(alone, ids, labels, 0);
        if (coupled) play.train.step(coupled, ids, labels, weight, held);
        yield null;
      }
      const { one, average } = play.train.judge(alone, test);
      yield { alone: one, coupled: coupled ? play.train.judge(coupled, test).one : one, average, oracle };
    }
  },
};

(() => {
  const stage = document.querySelector('[data-play="train"]');
  if (!stage) return;
  const EPOCHS = play.train.epochs;
  const WEIGHTS = [0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];
  const CURVES = { oracle: ["currentcolor", "1 0"], average: ["var(--play-c)", "2 3"], coupled: ["var(--play-b)", "1 0"], alone: ["var(--play-a)", "7 4"] };
  const state = { size: 3, weight: 10, start: 0, frozen: false, draw: 1 };
  let shown = { settings: state, rows: [] };
  let tried = []; // rows of the table: couplings of the same models on the same rows
  let training = null;

  const slider = (name, label, options) => play.slider(label, { value: state[name], show: String, on: (value) => (state[name] = value), ...options }).row;
  const peers = play.element("fieldset", {}, play.element("legend", {}, "Peers"));
  ["live", "frozen when coupling starts"].forEach((text, n) => {
    const input = play.element("input", { type: "radio", name: "play-peers", value: n });
    input.checked = n === Number(state.frozen);
    input.addEventListener("change", () => (state.frozen = Boolean(n)));
    peers.append(play.element("label", {}, input, text));
  });
  const stop = play.button("Stop", () => training && end("Stopped. "));
  const progress = play.element("progress", { max: EPOCHS, value: 0, "aria-label": "Epochs trained" });
  const picture = play.element("div", { class: "play-picture" });
  const numbers = play.element("div", { class: "play-numbers" });
  const words = play.element("p", { role: "status" }, "Nothing is trained yet.");
  stage.append(
    play.element("div", { class: "play-controls" },
      slider("size", "Models", { min: 2, max: 5, step: 1 }),
      slider("weight", "Weight of the peers", {
        min: 0, max: WEIGHTS.length - 1, step: 1, value: WEIGHTS.indexOf(state.weight), show: (n) => String(WEIGHTS[n]), on: (n) => (state.weight = WEIGHTS[n]),
      }),
      slider("start", "Epochs alone first", { min: 0, max: EPOCHS - 1, step: 1 }), peers,
      slider("draw", "Draw of rows and models", { min: 1, max: 20, step: 1 }),
      play.element("p", {}, play.button("Train", train), stop, progress)),
    picture, words, numbers,
  );

  const text = (x, y, words, attributes = {}) => play.shape("text", { x, y, ...attributes }, words);

  // the curves as far as they have come; drawn to the width at hand, so that a phone's reader can read the words
  function draw() {
    const { settings, rows } = shown;
    const width = Math.min(760, Math.max(280, picture.clientWidth));
    const values = rows.flatMap((row) => Object.values(row));
    const [low, high] = values.length ? [Math.floor(50 * Math.min(...values)) / 50, Math.max(...values) + 0.005] : [0.68, 0.82];
    const x = (epoch) => 42 + ((width - 114) * (epoch - 1)) / (EPOCHS - 1);
    const y = (auc) => 300 - (275 * (auc - low)) / (high - low);
    const svg = play.shape("svg", { viewBox: `0 0 ${width} 335`, role: "img", "aria-label": `Test AUC after each epoch. ${rows.length ? `At the end ${result(rows.at(-1))}` : "Nothing yet."}` });
    for (let auc = low; auc < high + 1e-9; auc += 0.02) {
      svg.append(play.shape("path", { d: `M42 ${y(auc)}H${x(EPOCHS)}`, stroke: "currentcolor", "stroke-opacity": 0.15 }), text(36, y(auc) + 5, play.number(auc, 2), { "text-anchor": "end" }));
    }
    for (const epoch of [1, 5, 10, 15]) svg.append(text(x(epoch), 320, String(epoch), { "text-anchor": "middle" }));
    svg.append(text(2, 14, "test AUC"), text(x(EPOCHS) + 14, 320, "epoch"));
    let free = 0;
    const ends = rows.length ? Object.keys(CURVES).sort((a, b) => rows.at(-1)[b] - rows.at(-1)[a]) : [];
    for (const name of ends) {
      const [colour, dashes] = CURVES[name];
      const from = name === "coupled" ? Math.max(0, settings.start - 1) : 0;
      const points = rows.slice(from).map((row, n) => `${x(from + n + 1)},${y(row[name])}`);
      svg.append(play.shape("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": name === "oracle" ? 1 : 2.5, "stroke-dasharray": dashes }));
      free = Math.max(free + 15, y(rows.at(-1)[name]) + 5); // names do not cover each other
      svg.append(text(x(EPOCHS) + 8, free, name, { style: `fill: ${colour}` }));
    }
    picture.replaceChildren(svg);
  }

  function result({ alone, coupled, average, oracle }) {
    const auc = (value) => play.number(value, 3);
    const { size } = shown.settings;
    const gap = auc(Math.abs(coupled - alone));
    const more = Number(gap) ? `${gap} ${coupled > alone ? "above" : "below"}` : "the same as";
    return `one of ${size} coupled models has, on average, a test AUC of ${auc(coupled)}, ${more} one alone. The average of the ${size} alone has ${auc(average)}, the oracle ${auc(oracle)}.`;
  }

  function fill() {
    const { settings, rows } = shown;
    const row = (words, name) => [words, play.number(rows.at(-1)[name], 3), play.number(Math.max(...rows.map((one) => one[name])), 3)];
    const how = `${settings.frozen ? ", frozen" : ""}${settings.start ? `, after ${settings.start} alone` : ""}`;
    const latest = row(`coupled, weight ${settings.weight}${how}`, "coupled");
    if (rows.length === EPOCHS) tried = [...tried.filter(([words]) => words !== latest[0]), latest].slice(-5);
    const others = [row("one alone", "alone"), row(`average of ${settings.size} alone`, "average"), row("oracle", "oracle")];
    numbers.replaceChildren(play.table("Test AUC, of single models the mean; the best epoch is chosen on the same rows", ["", "last epoch", "best epoch"], [...(rows.length === EPOCHS ? tried : [latest]), ...others]));
  }

  function end(prefix) {
    training = null;
    const { rows } = shown;
    words.textContent = prefix + (rows.length ? `After epoch ${rows.length} ${result(rows.at(-1))}` : "");
    if (rows.length) fill();
    stage.dataset.trained = rows.length;
  }

  function train() {
    const settings = { ...state };
    if (shown.settings.size !== settings.size || shown.settings.draw !== settings.draw) tried = [];
    shown = { settings, rows: [] };
    words.textContent = `${2 * settings.size} models are in training.`;
    const mine = (training = play.train.run(settings));
    const frame = () => {
      if (training !== mine) return;
      const until = performance.now() + 12; // the rest of the frame is the page's
      let step;
      do step = mine.next();
      while (!step.value && !step.done && performance.now() < until);
      if (step.value) shown.rows.push(step.value);
      if (step.value) draw();
      progress.value = shown.rows.length;
      if (step.done) end("");
      else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  window.addEventListener("resize", draw);
  draw();
})();
