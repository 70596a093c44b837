"""``ctrlib study``, ``book``, ``slides`` and ``pdf``: execute the notebooks, render book and slides, print the book."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ctrlib.cli.output import complain, reporting, say, show, stage, table

MOST_NOTEBOOKS = 4  # side by side: each kernel takes half a gigabyte


def study(
    profile: Annotated[
        str, typer.Option(help="quick, published, paper, or a YAML file with your own settings.")
    ] = "quick",
    only: Annotated[
        list[str] | None, typer.Option(help="Number of a notebook, as in --only 02; may be repeated.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter for this time; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the executed notebooks.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that train runs side by side. (Default: one on each core, or one on a GPU.)"
        ),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler whose workers train the runs instead.")
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only say what there is to train and how long it will take here.")
    ] = False,
) -> None:
    """Execute the study's notebooks with the parameters of a profile, and of [bold]--set[/bold].

    First every run that the notebooks ask for is trained, unless the run store has it; then they are executed, those
    that are up to date excepted. A run that fails fails the notebooks that need it; the others go on.
    Without --out, executed copies go to _build/study/PROFILE, with --set to a folder of their own.

    [dim]ctrlib study[/dim]                                    all notebooks, minutes on a laptop

    [dim]ctrlib study --only 21 --set instances=5[/dim]        one notebook, five models in a cohort

    [dim]ctrlib study --set dataset=criteo --set "seeds=[1,2,3]" --set device=cuda[/dim]

    [dim]ctrlib study --profile published --plan[/dim]         what is left to train, and how long that takes here

    [dim]ctrlib study --dask tcp://10.0.0.1:8786[/dim]               on many machines: see the book
    """
    from ctrlib.data.folders import project_root
    from ctrlib.data.workers import usable_cores
    from ctrlib.errors import UserError
    from ctrlib.run.execute import Outcome, execute_all
    from ctrlib.run.plan import plan, read_overrides
    from ctrlib.run.training import train_planned
    from ctrlib.store.environment import INSTRUCTIONS

    if workers and dask:
        raise UserError("--workers is for this machine, --dask for others: give one of them")
    if profile == "published":  # processors with wider vectors round otherwise; the narrower ones cost next to nothing
        os.environ.setdefault(INSTRUCTIONS, "AVX2")
    root = project_root()
    jobs = plan(root, profile, only or [], read_overrides(set_ or []), out.absolute() if out else None)
    if plan_only:
        return show_plan(jobs, workers)
    with stage("training what the notebooks ask for") as line:
        lacking = train_planned(jobs, line, workers, dask)
    outcomes = [Outcome(job, "failed", 0.0, lacking[job.number]) for job in jobs if job.number in lacking]
    for outcome in outcomes:
        outcome.job.failed_copy.unlink(missing_ok=True)
    ready = [job for job in jobs if job.number not in lacking]
    at_once = min(2 * usable_cores(), MOST_NOTEBOOKS)  # each waits half of its time
    with stage(f"executing {len(ready)} notebooks, {at_once} at once") as line:
        for count, outcome in enumerate(execute_all(ready, root, line, at_once), start=1):
            outcomes.append(outcome)
            line(f"[{count}/{len(ready)}] {outcome.job.name}: {outcome.state}, {outcome.seconds:.0f} s")
    outcomes.sort(key=lambda outcome: outcome.job.number)
    summary = table("notebook", "state", numbers=("seconds",))
    for outcome in outcomes:
        colour = "red" if outcome.state == "failed" else "green"
        summary.add_row(outcome.job.name, f"[{colour}]{outcome.state}[/]", f"{outcome.seconds:.0f}")
    show(summary)
    say(f"executed notebooks, profile {profile}: {within_project(jobs[0].output.parent, root)}")
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failures:
        see = f"; see {within_project(outcome.job.failed_copy, root)}" if outcome.job.failed_copy.exists() else ""
        complain(f"error: {outcome.job.source.name}: {outcome.error}{see}")
    if failures:
        raise typer.Exit(1)


def show_plan(jobs: list[Any], workers: int | None) -> None:
    """Show the runs of each notebook, how many the store holds, and how long the rest takes here."""
    from ctrlib.data.workers import usable_cores
    from ctrlib.run.estimate import Clock, plan_parts
    from ctrlib.run.plan import planned, uncollected
    from ctrlib.store.progress import humanize
    from ctrlib.store.runs import open_store

    with reporting("listing runs, timing a few steps of each kind"), uncollected():
        wanted, device, cores = {}, "auto", 1
        for job in jobs:
            wanted[job.name], device = planned(job)
        distinct = {run.fingerprint: run for runs in wanted.values() for run in runs}
        store = open_store()
        held = {name for name, run in distinct.items() if store.find(run, verify=False)}
        if len(held) < len(distinct):
            from ctrlib.training.loop import resolve_device

            on_gpu = resolve_device(device).type == "cuda"  # processes that share one do not multiply its speed
            cores = 1 if on_gpu else workers or usable_cores()
        parts = plan_parts(wanted, held, Clock(store, device), cores)
    made = table("notebook", numbers=("runs", "stored", "train", "time"))
    for part in parts:
        made.add_row(part.name, f"{part.runs:,}", f"{part.stored:,}", f"{part.to_train:,}", humanize(part.seconds))
    show(made)
    total = parts[-1]
    where = f" on {cores} core(s)" if total.to_train else ""
    say(
        f"{total.to_train:,} of {total.runs:,} distinct runs to train: about {humanize(total.seconds)}{where}. "
        "A run is counted as one to train where the list first needs it."
    )


def book(
    profile: Annotated[str, typer.Option(help="Whose executed notebooks to show.")] = "published",
    out: Annotated[Path | None, typer.Option(help="Folder that gets _build/html (default: the project).")] = None,
    student: Annotated[bool, typer.Option("--student", help="The edition without answers, in _build/student.")] = False,
) -> None:
    """Render the book from executed notebooks to [bold]_build/html/index.html[/bold]; nothing is trained.

    [dim]ctrlib book[/dim]     after [dim]ctrlib study[/dim]; [dim]make book[/dim] does both

    [dim]ctrlib book --student[/dim]     no solution and no answer of a quiz in any file; [dim]make student[/dim]
    """
    from ctrlib.data.folders import project_root
    from ctrlib.publish.book import render

    root = project_root()
    page = render(root, root / "_build" / "study" / Path(profile).stem, out.absolute() if out else None, student)
    say(f"The book: {within_project(page, root)}")


def slides(
    profile: Annotated[str, typer.Option(help="Whose executed notebooks give numbers and figures.")] = "published",
    out: Annotated[Path | None, typer.Option(help="Folder for them (default: _build/slides).")] = None,
) -> None:
    """Write the slides of the 90-minute lesson to [bold]_build/slides/lesson.html[/bold]; nothing is trained.

    [dim]ctrlib slides[/dim]     after [dim]ctrlib study[/dim]; the book holds them as well
    """
    from ctrlib.data.folders import project_root
    from ctrlib.publish.slides import write_slides

    root = project_root()
    folder = out.absolute() if out else root / "_build" / "slides"
    page = write_slides(root, root / "_build" / "study" / Path(profile).stem, folder)
    say(f"The slides: {within_project(page, root)}")


def pdf(
    out: Annotated[Path | None, typer.Option(help="The file (default: _build/book.pdf in the project).")] = None,
) -> None:
    """Print the rendered book to one PDF, by Chromium or Chrome.

    [dim]ctrlib pdf[/dim]     after [dim]ctrlib book[/dim]; [dim]make pdf[/dim] does all
    """
    from ctrlib.data.folders import project_root
    from ctrlib.publish.pdf import print_book

    root = project_root()
    printed = print_book(root / "_build" / "html", out.absolute() if out else root / "_build" / "book.pdf")
    say(f"The book on paper: {within_project(printed, root)}")


def grade_pack(
    out: Annotated[Path | None, typer.Option(help="Folder for it (default: _build/grade).")] = None,
) -> None:
    """Write the [bold]build[/bold] exercises as an assignment that grades itself, and all solutions as one PDF.

    [dim]ctrlib grade-pack[/dim]     needs otter-grader; the PDF needs the rendered book and Chromium or Chrome
    """
    from ctrlib.data.folders import project_root
    from ctrlib.errors import UserError
    from ctrlib.publish.grading import write_pack
    from ctrlib.publish.pdf import print_book

    root = project_root()
    folder = out.absolute() if out else root / "_build" / "grade"
    count = write_pack(root, folder)
    say(f"{count} questions: student/ without answers, autograder/ with answers and tests")
    try:
        say(f"All solutions on paper: {print_book(root / '_build' / 'html', folder / 'answer_key.pdf', True).name}")
    except UserError as error:
        say(f"No answer key on paper: {error}")
    say(f"All in {within_project(folder, root)}")


def within_project(path: Path, root: Path) -> str:
    """A path as seen from the project's folder."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
