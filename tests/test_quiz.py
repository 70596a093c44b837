"""Quick checks: what a quiz may hold, what the page becomes, and what happens when somebody clicks."""

import re
from pathlib import Path

import pytest
from browser import needs_browser, visit
from pages import ROOT, build_site
from quiz import parse_quiz

QUIZ = """
- question: What is $1 + 1$, *exactly*?
  options:
    - {text: "Three", why: "Too much by one."}
    - {text: "It is `two`", right: true, why: "As $1 + 1 = 2$."}
- question: And what is half of it?
  options:
    - {text: "One", right: true, why: "Halved it is one."}
    - {text: "None", why: "Half of something is something."}
"""
CONF = """
extensions = ["myst_parser", "quiz", "katex"]
myst_enable_extensions = ["dollarmath"]
html_static_path = [{static!r}]
html_math_renderer = "katex"
html_copy_source = False
def setup(app):
    app.add_config_value("student", {student}, "env")
"""
CONCEPTS = ("question", "clicks", "interactions", "distillation", "loss", "method", "data", "decide")


def build(folder: Path, student: bool, quiz: str = QUIZ) -> tuple[Path, str]:
    """A page with ``quiz``, and the warnings."""
    static = folder / "static"
    (static / "vendor").mkdir(parents=True)
    for name in ("quiz.js", "quiz.css", "katex.js", "vendor/katex"):
        (static / name).symlink_to(ROOT / "book" / "_static" / name)
    text = f"# Quick check\n\n```{{quiz}}\n{quiz}\n```\n"
    html, warnings = build_site(folder, {"index.md": text}, CONF.format(static=str(static), student=student))
    return html / "index.html", warnings


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path, warnings = build(tmp_path_factory.mktemp("quiz"), student=False)
    assert not warnings
    return path


ONE_RIGHT = "exactly one option must be right"
SLIPS = {
    "- question: [": "no YAML",
    "just words": "quiz: Input should be a valid list",
    "- {question: Which, options: [{text: a, why: b, right: true}]}": "0 options: List should have at least 2",
    "- {question: Which, options: [{text: a, why: b}, {text: c, why: d}]}": ONE_RIGHT,
    QUIZ.replace('"Too much by one."', '"Too much.", right: true'): ONE_RIGHT,
    QUIZ.replace(', why: "Too much by one."', ""): "0 options 0 why: Field required",
    QUIZ.replace("right: true", "rigth: true", 1): "0 options 1 rigth: Extra inputs are not permitted",
}


def test_a_quiz_is_read_or_refused_in_one_line():
    first, second = parse_quiz(QUIZ)
    assert first.question == "What is $1 + 1$, *exactly*?"
    assert [[option.right for option in one.options] for one in (first, second)] == [[False, True], [True, False]]
    for text, reason in SLIPS.items():
        with pytest.raises(ValueError, match=re.escape(reason)) as caught:
            parse_quiz(text)
        assert "\n" not in str(caught.value)


def test_the_build_says_what_is_wrong_with_a_quiz(tmp_path):
    _, warnings = build(tmp_path, student=False, quiz=QUIZ.replace("right: true, ", "", 1))
    assert "quiz: 0: Value error, exactly one option must be right" in warnings


def test_without_scripts_it_is_a_list_with_folded_answers(page):
    html = page.read_text(encoding="utf-8")
    assert html.count('<fieldset class="quiz"><legend>') == html.count("</legend>") == 2
    assert html.count('<input type="radio" name="quiz-0"') == html.count('<input type="radio" name="quiz-1"') == 2
    assert html.count('<details class="quiz-answers"><summary>Answers</summary>') == 2
    kinds = re.findall(r'<li class="quiz-(right|wrong)"><strong>(Right|Wrong)\.</strong>', html)
    assert kinds == [("wrong", "Wrong"), ("right", "Right"), ("right", "Right"), ("wrong", "Wrong")]
    assert "<em>exactly</em>" in html
    assert 'class="math' in html
    assert not re.search(r'<script[^>]+src="(?:https?:)?//', html)


def test_a_student_edition_holds_no_answer_in_any_file(tmp_path):
    path, warnings = build(tmp_path, student=True)
    assert not warnings
    html = path.read_text(encoding="utf-8")
    assert "It is " in html
    assert html.count('type="radio"') == 4
    told = r"quiz-answers|quiz-right|quiz-wrong|checked|data-"
    assert not re.search(told, html.split("<fieldset", 1)[1].split("</div>")[0])
    files = [p for p in path.parent.rglob("*") if p.is_file() and "_static" not in p.parts and "doctrees" not in str(p)]
    assert len(files) > 3
    assert not [p for p in files if b"Too much by one" in p.read_bytes() or b"Halved it is" in p.read_bytes()]


def test_concept_pages_have_two_to_four_questions_and_no_telling_order():
    places = []
    for name in CONCEPTS:
        text = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
        (quiz,) = re.findall(r"^```\{quiz\}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        questions = parse_quiz(quiz)
        assert 2 <= len(questions) <= 4, name
        places += [[option.right for option in question.options].index(True) for question in questions]
    assert max(places.count(place) for place in set(places)) <= 0.6 * len(places)


@needs_browser
def test_a_click_says_right_or_wrong_and_why(page, browse):
    hidden = "[...document.querySelectorAll('.quiz-answers')].every(e => e.hidden)"
    question = "document.querySelector('fieldset.quiz')"
    verdict = f"{question}.querySelector('[role=status]')"
    check, said = f"{question}.querySelector('button').click()", f"{verdict}.className + ': ' + {verdict}.textContent"
    look = (check, said, f"getComputedStyle({verdict}, '::before').content")
    choose = [(f"{question}.querySelectorAll('input')[{n}].click()", f"{verdict}.textContent", *look) for n in (0, 1)]
    seen = browse(visit(page, hidden, *look, *choose[0], *choose[1]))
    seen = [value for value in seen if value is not None]
    hidden, nothing, no_sign, emptied, wrong, cross, emptied_again, right, tick = seen
    assert hidden is True
    assert nothing == "quiz-verdict: Choose an option first."
    assert no_sign == "none"
    assert emptied == emptied_again == ""
    assert wrong == "quiz-verdict quiz-wrong: Wrong. Too much by one."
    assert right.startswith("quiz-verdict quiz-right: Right. As ")
    assert (cross, tick) == ('"✗ "', '"✓ "')
