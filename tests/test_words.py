"""Plain English: no term that the glossary has replaced, and sentences that are short on average."""

import re

import pytest
from pages import ROOT

from ctrlib.publish.exercises import page_text

PAGES = [*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "README.md"]
PAGES.append(ROOT / "book" / "slides" / "lesson.ipynb")
FIRST_SET = dict.fromkeys(("07", "08", "09", "10", "11"), "leaves with the first set")
LINTED = [path for path in PAGES if path.name[:2] not in FIRST_SET]
RETIRED = re.compile(
    r"\b(?:trained out|own end|listen(?:s|ed|er|ers|ing)?|speakers?|loud(?:ly|er|ness)?|heard|hears?|own cop(?:y|ies)"
    r"|with own tables|reachable|twins?|not shown|fields? meets?|made(?:-up)? clicks|arms?|solo|groups?|equal[ _]epochs"
    r"|spends? diversity|said beforehand|going on alone|company matters|more is worse|came:)(?!\w)",
    re.IGNORECASE,
)
WORDS = 25  # of a sentence, on average over a page


def prose(text: str) -> str:
    """Markdown without code, formulas, directives (but quizzes, terms and boxes), markup, targets of links."""
    text = re.sub(r"^```\{(?:quiz|glossary|admonition|play)\}(.*?)^```", r"\1", text, flags=re.MULTILINE | re.DOTALL)
    for markup in (r"^( *)(```|:::).*?^\1\2\s*$", r"^\$\$.*?^\$\$", r"<!--.*?-->", r"<[^>]*>"):
        text = re.sub(markup, "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\{term\}`([^`<]*)[^`]*`", r"\1", text)
    return re.sub(r"(\{[\w:]+\})?`[^`]*`|\$[^$]*\$", "x", re.sub(r"\]\([^)]*\)", "]", text))


def words_a_sentence(text: str) -> float:
    """Mean over the sentences of running text: no headings, no tables."""
    text = re.sub(r"^(#|\|).*$", "\n", prose(text), flags=re.MULTILINE)
    text = re.sub(r"^\s*(\d+\.|[-:]) ", "\n\n", text, flags=re.MULTILINE)
    counts = [len(re.findall(r"\w+", one)) for one in re.split(r"[.!?][*)\"']*\s|\n\s*\n", text)]
    return sum(counts) / max(1, sum(map(bool, counts)))


@pytest.mark.parametrize("path", LINTED, ids=lambda one: one.name)
def test_pages_use_the_terms_of_the_glossary_in_short_sentences(path):
    text = page_text(path)
    assert not RETIRED.findall(prose(text))
    assert words_a_sentence(text) <= WORDS


def test_the_lint_knows_a_retired_term_and_a_long_sentence():
    retired = RETIRED.findall(prose("The group that `solo` was, *loud* $arm$.\n```{quiz}\nheard\n```"))
    assert retired == ["group", "loud", "heard"]
    assert words_a_sentence("# A title\n\nOne two three. Four five!\n\n| a | table |\n") == 2.5
