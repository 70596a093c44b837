// Names every table that has no caption after the last heading before it, for screen readers.
"use strict";

for (const table of document.querySelectorAll("article table:not(.katex *)")) {
  if (table.caption) continue;
  const before = [...document.querySelectorAll("article :is(h1, h2, h3, h4)")].filter(
    (heading) => heading.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING,
  );
  const caption = table.createCaption();
  caption.className = "visually-hidden";
  caption.textContent = before.at(-1)?.firstChild.textContent ?? document.title;
}
