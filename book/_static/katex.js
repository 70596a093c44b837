// Sets the formulas of a page; see _ext/katex.py. A formula that cannot be set is a script error, which the tests notice.
"use strict";

document.querySelectorAll(".math").forEach((element) => {
  const displayMode = element.tagName === "DIV";
  katex.render(element.textContent, element, { displayMode, strict: "error", throwOnError: true });
});
