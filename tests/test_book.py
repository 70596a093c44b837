"""The book's sources: complete, connected, in plain English, and free of results typed by hand."""

import copy
import json
import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from pages import ROOT

from ctrlib.publish import book
from ctrlib.publish.book import render
from ctrlib.publish.exercises import page_text
from ctrlib.publish.slides import SOURCE

PAGES = sorted((ROOT / "book").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXTS = {path: page_text(path) for path in (*PAGES, *NOTEBOOKS)}
CITE = re.compile(r"\{cite:[a-z]+\}`([^`]+)`")
ROLE = re.compile(r"\{[a-z:]+\}`[^`]+`")
# What a measured result looks like: a decimal fraction, or a percentage. The level of an interval is none.
RESULT = re.compile(r"\d+[.,]\d+|\d+(?:\.\d+)?\s?(?:%|per\s+cent\b)")
HARMLESS = re.compile(r"\b95\s?%\s+(?:\{term\}|interval)|Python 3\.1\d|CC BY[A-Z-]* 4\.0")


def paragraphs(text: str) -> list[str]:
    """Prose blocks of a text: no fenced code, no displayed formulas, no directive lines; table rows one by one."""
    text = re.sub(r"^(\s*)```.*?^\s*```\s*$", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\$\$.*?^\$\$\s*$", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\s*:.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(\||\d+\. |- )", r"\n\1", text, flags=re.MULTILINE)
    return [block for block in re.split(r"\n\s*\n", text) if block.strip()]


def typed_results(block: str) -> list[str]:
    """Result-like numbers of a block that come neither from a run nor with a citation."""
    if CITE.search(block):
        return []
    block = HARMLESS.sub("", block)
    for markup in (ROLE, re.compile(r"`[^`]*`"), re.compile(r"\$[^$]*\$"), re.compile(r"\]\([^)]*\)")):
        block = markup.sub("", block)
    return RESULT.findall(block)


def test_every_page_and_notebook_is_in_the_toc_once():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    assert len(listed) == len(set(listed))
    every = {str(path.relative_to(ROOT).with_suffix("")) for path in TEXTS}
    assert {name for name in every if name.startswith("book/")} <= set(listed) <= every, "a notebook may come later"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_results_are_glued_or_cited(path):
    typed = {block[:90]: found for block in paragraphs(TEXTS[path]) if (found := typed_results(block))}
    assert not typed, f"{path.name}: glue these from a run, or cite their source"


def test_the_check_of_results_tells_them_from_others():
    results = ("AUC rose to 0.8123.", "a gain of 3 per cent", "it lost 0.4 % here")
    others = ("{glue:text}`/n.ipynb::a:.4f` in AUC", "a 95 % interval", "0.66 % {cite:p}`key`", "rate `0.1`, $x = 0.5$")
    assert [bool(typed_results(block)) for block in (*results, *others)] == [True] * 3 + [False] * 4


PARTS = {  # an older page has the first of the forms, a newer one the rhythm that begins with the answer
    "a question at the top": r"^# .+\n\n(?:.|\n)*?At\s+the\s+end\s+of\s+this\s+page\s+you|^# .+\?$",
    "a prediction to make": r"Before you look|\*\*Exercise 1, predict",
    "parameters or how it was compared": r"^## (?:Parameters|How it was compared)",
    "what to notice": r"^## (?:What to notice|What it means|Meaning and limits)",
    "limits": r"^\*\*Limits\.\*\*|^## .*limits$",
    "exercises": r"^## Exercises",
    "how to run it again": r"\*\*(?:Run it again|Measure it yourself)[^`]*`(?:``bash\n)?(?:ctrlib study|make b)",
}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name[:2])
def test_experiment_pages_have_all_parts_and_say_what_they_were_made_from(notebook):
    lacking = [part for part, how in PARTS.items() if not re.search(how, TEXTS[notebook], flags=re.MULTILINE)]
    assert not lacking
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    trains = max(code.find(f"{how}(") for how in ("train_conditions", "train_stages", "published_pages"))
    says = code.find("provenance(p")
    assert (trains < 0) == (says < 0), f"{notebook.name}: provenance(p, conditions) belongs after its training"
    assert trains <= says


def test_answers_figures_and_tables_stand_without_their_code() -> None:
    """One fold below the figure has the code of all cells before it, and what they had folded; one at the end has the
    code of the others; nothing is lost."""

    def cell(source: str, tags: list[str], *outputs: str, **metadata: object) -> nbformat.NotebookNode:
        made = nbformat.v4.new_code_cell(source, metadata={"tags": tags, **metadata})
        made.outputs = [nbformat.v4.new_output("stream", text=text) for text in outputs]
        return made

    figure = {"mystnb": {"figure": {"name": "fig-01-a"}}}
    title = nbformat.v4.new_markdown_cell("# A title")
    after = [
        *(cell("rest", ["hide-input"], "table"), cell("glue", ["remove-input"], "value")),
        *(cell("more", ["hide-cell"], "one"), cell("and more", ["hide-input", "hide-output"], "two")),
        cell("provenance(p)", ["hide-input"], "facts"),
    ]
    cells = [
        cell("p = 1", ["parameters"]),
        cell("train", ["hide-input", "hide-output"], "log"),
        cell("say", ["hide-input"], "answer"),
    ]
    page = nbformat.v4.new_notebook(cells=[title, *cells, cell("draw", ["hide-input"], "figure", **figure), *after])
    book.join_code(page)
    shown = [(one.source, [output.text for output in one.get("outputs", [])]) for one in page.cells]
    code = "p = 1\n\ntrain\n\nsay\n\ndraw"
    assert shown == [
        *(("# A title", []), ("say", ["answer"]), ("draw", ["figure"]), (code, ["log"])),
        *(("rest", ["table"]), ("glue", ["value"]), ("more", ["one", "two"]), ("provenance(p)", ["facts"])),
        ("rest\n\nmore\n\nand more\n\nprovenance(p)", []),
    ]
    tags = [one.metadata.tags for one in page.cells[1:]]
    assert tags[:5] == [["remove-input"]] * 2 + [["hide-cell"]] + [["remove-input"]] * 2
    assert tags[5:] == [["remove-input", "hide-output"]] * 2 + [["hide-cell"]]
    for tags in ([], ["hide-input"]):  # code in the open stays where it is read, and so does a page without a figure
        before = nbformat.v4.new_notebook(
            cells=[cell("open", tags), *([] if tags else [cell("draw", ["hide-input"], **figure)])]
        )
        after = copy.deepcopy(before)
        book.join_code(after)
        assert after == before


def test_terms_are_in_the_glossary_in_order():
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^([^\s`#].*)\n  ", text.split("```{glossary}")[1], flags=re.MULTILINE)
    assert terms == sorted(terms, key=str.lower)


def test_spelling(tmp_path):
    """Pages, notebooks, README and the code's comments; a known slip shows that the check looks."""
    slip = tmp_path / "slip.md"
    slip.write_text("This sentance is wrong.")
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml")]
    read = [ROOT / name for name in ("book", "notebooks", "ctrlib", "README.md")]
    assert subprocess.run([*command, slip], capture_output=True, text=True).returncode
    found = subprocess.run([*command, *read], capture_output=True, text=True, cwd=ROOT)
    assert not found.returncode, found.stdout + found.stderr


def test_citations_and_bibliography_agree():
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([^,\s]+),", bibliography, flags=re.MULTILINE)
    assert len(entries) == len(set(entries)), "a key stands twice in references.bib"
    used = {key.strip() for text in TEXTS.values() for keys in CITE.findall(text) for key in keys.split(",")}
    assert set(entries) <= used, f"in references.bib but never cited: {sorted(set(entries) - used)}"


def test_a_book_that_is_up_to_date_is_not_built_again(tmp_path, monkeypatch) -> None:
    text, executed, page = tmp_path / "book" / "intro.md", tmp_path / "executed", tmp_path / "_build/html/index.html"
    for folder in (text.parent, executed, page.parent):
        folder.mkdir(parents=True)
    for name in book.TOP_FILES:
        (tmp_path / name).touch()
    built = []

    def build(command, **_):
        built.append(command)
        page.write_text("a page")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("CTRLIB_COMMIT", "c0ffee")
    monkeypatch.setattr(book, "assemble", lambda *_: tmp_path)
    monkeypatch.setattr(book.subprocess, "run", build)
    changes = (lambda: text.write_text("two"), (executed / "01_a.ipynb").touch, page.unlink)
    for builds, change in enumerate((lambda: text.write_text("one"), *changes), start=1):
        change()
        for _ in range(2):
            assert render(tmp_path, executed) == page
            assert len(built) == builds


LINTED = [*TEXTS, ROOT / "README.md", ROOT / SOURCE]
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
