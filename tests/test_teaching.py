"""For teachers: slides made from executed pages, the table of what pages take, a wheelhouse."""

import base64
import json
import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from browser import needs_browser
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output
from pages import ROOT

from ctrlib.errors import UserError
from ctrlib.publish.slides import SOURCE, ExecutedPages, arrange, slide_type, to_html, write_slides

PICTURE = base64.b64encode(b"<svg/>").decode()
CELLS = json.loads((ROOT / SOURCE).read_text(encoding="utf-8"))["cells"]


def shown(data: dict, metadata: dict | None = None) -> dict:
    return new_output("display_data", data=data, metadata=metadata or {})


def page(folder: Path, name: str, outputs: list[dict], metadata: dict | None = None) -> None:
    cell = new_code_cell(metadata=metadata or {}, outputs=outputs)
    nbformat.write(new_notebook(cells=[cell]), folder / f"{name}.ipynb")


def glued(name: str, text: str) -> dict:
    prefix = "application/papermill.record/"
    return shown({prefix + "text/plain": text}, {"scrapbook": {"name": name, "mime_prefix": prefix}})


REASONS = {
    "{glue:text}`/notebooks/03_y.ipynb::effect:.4f`": "03_y.ipynb is missing; run `ctrlib study --profile",
    "{glue:text}`/notebooks/02_x.ipynb::efect:.4f`": "unknown value of 02_x 'efect'; allowed: effect",
    "![A](/notebooks/02_x.ipynb#fig-y)": "unknown figure of 02_x 'fig-y'",
}


def test_numbers_and_figures_come_from_executed_pages(tmp_path):
    outputs = [glued("effect", "0.00123"), glued("name", "'a <b>'"), glued("far", "nan")]
    page(tmp_path, "02_x", [shown({"image/svg+xml": "<svg/>"}), *outputs], {"mystnb": {"figure": {"name": "fig-x"}}})
    fill = ExecutedPages(tmp_path).fill
    assert fill("It is {glue:text}`/notebooks/02_x.ipynb::effect:+.4f`.") == "It is +0.0012."
    assert fill("{glue:text}`/notebooks/02_x.ipynb::name:s`") == "a &lt;b&gt;"
    assert fill("{glue:text}`/notebooks/02_x.ipynb::far:.2f`") == "nan"
    image = f'<img src="data:image/svg+xml;base64,{PICTURE}" alt="A &quot;dot&quot;">'
    assert fill('![A "dot"](/notebooks/02_x.ipynb#fig-x)') == image
    for asked, reason in REASONS.items():
        with pytest.raises(UserError, match=re.escape(reason)):
            fill(asked)


def test_a_figure_in_steps_is_one_image_on_top_of_the_other(tmp_path):
    drawing = '<svg><g id="step-1-0"/><g id="step-2-1"/></svg>'
    page(tmp_path, "02_x", [shown({"image/svg+xml": drawing})], {"mystnb": {"figure": {"name": "fig-x"}}})
    made = ExecutedPages(tmp_path).fill("![A](/notebooks/02_x.ipynb#fig-x, in steps)")
    first, second = BeautifulSoup(made, "html.parser")(class_="steps")[0]("img")
    assert [first["alt"], second["alt"], second["class"]] == ["A: 1 of 2", "A: 2 of 2", ["fragment"]]
    before, after = (base64.b64decode(one["src"].partition(",")[2]).decode() for one in (first, second))
    assert before == drawing.replace("<svg>", '<svg><style>[id^="step-2"] { display: none }</style>')
    assert after == drawing


def test_slide_types_become_sections():
    made = arrange([("slide", "a"), ("fragment", "b"), ("notes", "c"), ("slide", "d"), ("subslide", "e"), ("-", "f")])
    assert made.replace("\n", "") == (
        '<section>a<div class="fragment">b</div><aside class="notes">c</aside></section>'
        "<section><section>d</section><section>ef</section></section>"
    )
    assert arrange([("slide", "a"), ("skip", "b")]) == "<section>a</section>"


def test_markdown_of_slides_keeps_formulas_for_the_browser():
    made = to_html("Where $p < q$:\n\n$$ a_1 * b * c $$\n\n| a |\n| :-- |\n| 1 |\n")
    assert '<span class="math inline">p &lt; q</span>' in made
    assert re.search(r'<div class="math block">\s*a_1 \* b \* c\s*</div>', made)
    assert "<td" in made


def test_the_lesson_is_a_notebook_of_slides_with_notes():
    kinds = [slide_type(cell) for cell in CELLS]
    assert kinds[0] == "slide"
    assert kinds.count("slide") >= 12
    assert kinds.count("notes") >= 12
    assert not [cell for cell in CELLS if cell["cell_type"] != "markdown" or cell.get("outputs")]
    minutes = [int(number) for cell in CELLS for number in re.findall(r"inute \d+ to (\d+)", "".join(cell["source"]))]
    assert minutes == sorted(minutes)
    assert minutes[-1] == 90


def files_of(slides: Path) -> list[Path]:
    """The files that slides load; every picture has its words, and no number is missing."""
    text = slides.read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    assert all(image.get("alt") for image in page("img"))
    assert "{glue" not in text
    addresses = [tag[name] for tag in page(True) for name in ("src", "href") if name in tag.attrs]
    return [(slides.parent / address).resolve() for address in addresses if not address.startswith("data:")]


def test_slides_need_no_network_and_lie_where_the_guide_says(built_book, tiny_study, tmp_path):
    files = files_of(built_book / "_static" / "slides" / "lesson.html")
    assert len(files) == 5
    assert all(path.is_file() for path in files)
    guide = (built_book / "book" / "teach.html").read_text(encoding="utf-8")
    assert 'href="../_static/slides/lesson.html"' in guide
    root = tiny_study["root"]
    alone = write_slides(root, root / "_build" / "study" / "tiny", tmp_path / "slides")
    assert all(path.is_file() and alone.parent in path.parents for path in files_of(alone))
    table = guide.split('id="what-each-page-takes"')[1].split("</table>")[0]
    assert table.count("<tr") >= 25
    assert re.search(r"\d+ runs, \d+ (?:seconds|minutes)", table)
    assert "Trained on: " in guide


@needs_browser
def test_every_slide_fits_and_nothing_is_missed_offline(built_book, browse):
    """Shown one after the other with the network cut off: no error, and nothing runs over the edge of a slide."""
    size = "[s.querySelector('h1, h2').textContent, s.scrollWidth, s.scrollHeight]"

    async def task(tab):
        await tab.open(built_book / "_static" / "slides" / "lesson.html")
        seen = []
        for _ in range(await tab.evaluate("Reveal.getTotalSlides()")):
            seen.append(await tab.evaluate(f"(s => {size})(Reveal.getCurrentSlide())"))
            await tab.evaluate("(() => { do { Reveal.next() } while (Reveal.availableFragments().prev) })()")
        await tab.evaluate("document.querySelector('.play button').click()")
        assert await tab.until("document.querySelector('.play').dataset.trained === '15'"), "the trainer trains"
        return seen, await tab.evaluate("[Reveal.getConfig().width, Reveal.getConfig().height]"), tab.problems

    seen, (width, height), problems = browse(task)
    assert problems == []
    assert len({title for title, *_ in seen}) == sum(slide_type(cell) in ("slide", "subslide") for cell in CELLS)
    assert not [one for one in seen if one[1] > width or one[2] > height]


def test_a_wheelhouse_is_asked_alone_when_one_is_named(tmp_path):
    probe = tmp_path / "probe.mk"
    probe.write_text(f"include {ROOT / 'Makefile'}\nprobe:\n\t@env | grep -E '^(PIP|UV)_' | sort\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    command = ["make", "-s", "-f", str(probe), "probe"]
    how = {"cwd": tmp_path, "capture_output": True, "text": True, "env": clean}
    asked = subprocess.run([*command, "WHEELHOUSE=some/wheels"], **how)
    assert asked.stdout == "".join(
        f"{one}_FIND_LINKS={tmp_path}/some/wheels\n{one}_NO_INDEX=1\n" for one in ("PIP", "UV")
    )
    assert not subprocess.run(command, **how).stdout
    plan = subprocess.run(["make", "-n", "wheelhouse"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "pip download" in plan
    assert "requirements.lock" in plan


@pytest.mark.parametrize(
    ("installer", "command"), [("", ".venv/bin/python -m pip install"), ("/bin/uv", "/bin/uv pip install")]
)
def test_pytorch_comes_from_the_index_that_is_named(installer, command):
    asked = ["make", "-n", "env", "READY=none", f"UV={installer}", "TORCH_INDEX=file:///wheels"]
    lines = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    first, rest, _ = (line for line in lines if line.startswith(command))
    assert "--index-url file:///wheels torch==" in first
    assert rest.endswith("-r .venv/requirements.txt")
    assert "--index-url" not in rest
