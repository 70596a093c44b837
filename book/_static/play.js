// What the things to try share: elements, sliders with a label and a number, and numbers as the pages write them.
"use strict";

const play = {
  // an HTML element with attributes and children
  element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  },

  // an SVG element with attributes and children
  shape(name, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  },

  // a labelled slider; `show` says its value in words, `on` is called with the value at every move
  slider(label, { min, max, step, value, show = (number) => play.number(number, 2), on }) {
    const input = play.element("input", { type: "range", min, max, step, value });
    const output = play.element("output");
    const say = () => {
      output.textContent = show(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => {
      say();
      on(Number(input.value));
    });
    say();
    const row = play.element("label", {}, play.element("span", {}, label), input, output);
    return {
      row,
      set(number) {
        input.value = number;
        say();
      },
    };
  },

  button(label, on) {
    const made = play.element("button", { type: "button" }, label);
    made.addEventListener("click", on);
    return made;
  },

  // a table of texts with a header row and row headers
  table(caption, header, rows) {
    const cells = (row) => row.map((text, n) => play.element(n ? "td" : "th", n ? {} : { scope: "row" }, text));
    return play.element(
      "table",
      { class: "table" },
      play.element("caption", {}, caption),
      play.element(
        "thead",
        {},
        play.element("tr", {}, ...header.map((text) => play.element(text ? "th" : "td", text ? { scope: "col" } : {}, text))),
      ),
      play.element("tbody", {}, ...rows.map((row) => play.element("tr", {}, ...cells(row)))),
    );
  },

  // fixed digits, a true minus sign, and a plus where asked for
  number(value, digits, plus = false) {
    const text = Math.abs(value).toFixed(digits);
    const zero = Number(text) === 0;
    return (value < 0 && !zero ? "−" : plus && !zero ? "+" : "") + text;
  },

  sigmoid: (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z))),
  logit: (p) => Math.log(p / (1 - p)),
};
