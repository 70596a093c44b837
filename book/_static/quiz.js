// Quick checks. The page holds each question as radio buttons with its answers in a dropdown, in the order of the
// options. This script folds the dropdown into a button: it says whether the chosen option is right, and why.
// A student edition has no dropdown, hence no button.
"use strict";

function addButton(question, answers) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Check";
  const verdict = document.createElement("p");
  verdict.className = "quiz-verdict";
  verdict.setAttribute("role", "status"); // read out when its text changes
  answers.hidden = true;
  answers.before(button, verdict);

  button.addEventListener("click", () => {
    const chosen = question.querySelector("input:checked");
    verdict.classList.remove("quiz-right", "quiz-wrong");
    if (!chosen) {
      verdict.textContent = "Choose an option first.";
      return;
    }
    const answer = answers.querySelectorAll("li")[Number(chosen.value)];
    verdict.classList.add(answer.className);
    verdict.replaceChildren(...answer.cloneNode(true).childNodes);
  });
  question.addEventListener("change", () => {
    verdict.classList.remove("quiz-right", "quiz-wrong");
    verdict.replaceChildren();
  });
}

document.querySelectorAll("fieldset.quiz").forEach((question) => {
  const answers = question.querySelector("details.quiz-answers");
  if (answers) addButton(question, answers);
});
