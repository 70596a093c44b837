"""Quick checks: a directive ``quiz`` whose content is YAML, a list of questions with a handful of options each.

    - question: Which ...?
      options:
        - {text: "This one.", right: true, why: "Because ..."}
        - {text: "That one.", why: "It is not, since ..."}

Without scripts a question is a list of radio buttons with its answers in a dropdown; ``quiz.js`` adds a button that
says whether the chosen option is right, and why. Where the Sphinx value ``student`` is set, neither which option is
right nor any reason reaches the page. Texts may hold inline Markdown: formulas, code, terms.
"""

import yaml
from docutils import nodes
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from sphinx.util.docutils import SphinxDirective


class Option(BaseModel):
    """One option; every one says why it is right or wrong."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(min_length=1)
    why: str = Field(min_length=1)
    right: bool = False


class Question(BaseModel):
    """A question with two to five options, of which one is right."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: str = Field(min_length=1)
    options: list[Option] = Field(min_length=2, max_length=5)

    @model_validator(mode="after")
    def _one_is_right(self) -> "Question":
        if sum(option.right for option in self.options) != 1:
            raise ValueError("exactly one option must be right")
        return self


def parse_quiz(text: str) -> list[Question]:
    """The questions of a quiz.

    Raises:
        ValueError: one line that says what is wrong, and in which question.
    """
    try:
        return TypeAdapter(list[Question]).validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"]) or "quiz"
        raise ValueError(f"{where}: {first['msg']}") from None


class Quiz(SphinxDirective):
    """``quiz``: see the head of this file."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The questions as HTML around text that was read as Markdown."""
        try:
            questions = parse_quiz("\n".join(self.content))
        except ValueError as error:
            raise self.error(f"quiz: {error}") from None
        student = getattr(self.config, "student", False)
        parts: list[nodes.Node] = []
        for question in questions:
            parts += self._question(question, f"quiz-{self.env.new_serialno('quiz')}", student)
        return parts

    def _question(self, question: Question, name: str, student: bool) -> list[nodes.Node]:
        parts = [_html('<fieldset class="quiz"><legend>'), *self._inline(question.question), _html("</legend>")]
        for number, option in enumerate(question.options):
            button = f'<input type="radio" name="{name}" value="{number}">'
            parts += [_html(f"<label>{button}<span>"), *self._inline(option.text), _html("</span></label>")]
        if not student:
            parts.append(_html('<details class="quiz-answers"><summary>Answers</summary><ol>'))
            for option in question.options:
                word = "Right" if option.right else "Wrong"
                parts.append(_html(f'<li class="quiz-{word.lower()}"><strong>{word}.</strong> '))
                parts += [*self._inline(option.why), _html("</li>")]
            parts.append(_html("</ol></details>"))
        return [*parts, _html("</fieldset>")]

    def _inline(self, text: str) -> list[nodes.Node]:
        """Markdown of one paragraph, without the paragraph."""
        parsed = self.parse_text_to_nodes(text)
        if len(parsed) != 1 or not isinstance(parsed[0], nodes.paragraph):
            raise self.error(f"quiz: must be one paragraph: {text[:80]}")
        return parsed[0].children


def _html(code: str) -> nodes.raw:
    return nodes.raw("", code, format="html")


def setup(app):
    app.add_directive("quiz", Quiz)
    app.add_js_file("quiz.js", loading_method="defer")
    app.add_css_file("quiz.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
