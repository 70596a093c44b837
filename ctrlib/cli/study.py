"""``ctrlib study``, ``book``, ``slides`` and ``pdf``: execute notebooks, render the book and the slides, print it."""

import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ctrlib.cli.output import console, say, table


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

    [dim]ctrlib study --only 02 --set instances=5[/dim]        one notebook, five models in a cohort

    [dim]ctrlib study --set dataset=criteo --set "seeds=[1,2,3]" --set device=cuda[/dim]

    [dim]ctrlib study --profile published --plan[/dim]         what is left to train, and how long that takes here

    [dim]ctrlib study --dask tcp://10.0.0.1:8786[/dim]               on many machines: see the book
    """
    from ctrlib.data.folders import project_root
    from ctrlib.errors import UserError
    from ctrlib.run.execute import Outcome, execute
    from ctrlib.run.plan import plan, read_overrides
    from ctrlib.run.training import train_planned

    if workers and dask:
        raise UserError("--workers is for this machine, --dask for others: give one of them")
    root = project_root()
    jobs = plan(root, profile, only or [], read_overrides(set_ or []), out.absolute() if out else None)
    if plan_only:
        return show_plan(jobs, workers)
    outcomes = []
    with Reporter(len(jobs)) as reporter:
        reporter.start("training what the notebooks ask for")
        lacking = train_planned(jobs, reporter.line, workers, dask)
        reporter.end("done")
        for job in jobs:
            reporter.start_notebook(job.name)
            if job.number in lacking:
                job.failed_copy.unlink(missing_ok=True)
                outcomes.append(Outcome(job, "failed", 0.0, lacking[job.number]))
            else:
                outcomes.append(execute(job, root, reporter.line))
            reporter.end(outcomes[-1].state)
    summary = table("notebook", "state", numbers=("seconds",))
    for outcome in outcomes:
        colour = "red" if outcome.state == "failed" else "green"
        summary.add_row(outcome.job.name, f"[{colour}]{outcome.state}[/]", f"{outcome.seconds:.0f}")
    console(stderr=False).print(summary)
    say(f"executed notebooks, profile {profile}: {shown(jobs[0].output.parent, root)}")
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failures:
        see = f"; see {shown(outcome.job.failed_copy, root)}" if outcome.job.failed_copy.exists() else ""
        typer.secho(f"error: {outcome.job.source.name}: {outcome.error}{see}", fg="red", err=True)
    if failures:
        raise typer.Exit(1)


def show_plan(jobs: list[Any], workers: int | None) -> None:
    """What each notebook asks for, what the store has of it, and how long the rest takes here."""
    from ctrlib.cli.output import reporting
    from ctrlib.run.estimate import Clock, fleet_lines, plan_parts, spoken_time
    from ctrlib.run.plan import planned
    from ctrlib.store.runs import open_store, side_by_side
    from ctrlib.training.loop import resolve_device

    with reporting("listing runs, timing a few steps of each kind"):
        wanted, device = {}, "auto"
        for job in jobs:
            wanted[job.name], device = planned(job)
        on_gpu = resolve_device(device).type == "cuda"  # processes that share one do not multiply its speed
        cores = 1 if on_gpu else workers or side_by_side(device)
        store = open_store()
        clock = Clock(store, device)
        parts = plan_parts(wanted, store, clock, cores)
        distinct = {run.fingerprint: run for runs in wanted.values() for run in runs}
        missing = [run for run in distinct.values() if store.find(run) is None]
        seconds = {run.fingerprint: clock.estimate(run).likely for run in missing}
    shown = table("notebook", numbers=("runs", "in the store", "shared", "to train", "time"))
    for part in parts:
        left = part.runs - part.trained - part.shared
        times = spoken_time(part.time.likely)
        shown.add_row(part.name, *(f"{n:,}" for n in (part.runs, part.trained, part.shared, left)), times)
    console(stderr=False).print(shown)
    everything = parts[-1]
    say(
        f"{everything.runs - everything.trained:,} of {everything.runs:,} distinct runs to train: about "
        f"{spoken_time(everything.time.likely)} on {cores} core(s), {spoken_time(everything.time.most)} at most. "
        "Shared: trained for an earlier notebook of the list."
    )
    for line in fleet_lines(missing, seconds) if missing else []:
        say(line)


def book(
    profile: Annotated[str, typer.Option(help="Whose executed notebooks to show.")] = "quick",
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
    typer.echo(f"The book: {shown(page, root)}")


def slides(
    profile: Annotated[str, typer.Option(help="Whose executed notebooks give numbers and figures.")] = "quick",
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
    typer.echo(f"The slides: {shown(page, root)}")


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
    typer.echo(f"The book on paper: {shown(printed, root)}")


def shown(path: Path, root: Path) -> str:
    """A path below the project without the part everybody knows."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


class Reporter:
    """On a terminal one moving line (notebook, run, time); in a log file one line per thing that happened."""

    def __init__(self, notebooks: int) -> None:
        self.console = console()
        self.notebooks, self.number, self.title, self.began = notebooks, 0, "", 0.0
        self.progress: Any = None

    def __enter__(self) -> "Reporter":
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self.progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(20),
                TimeElapsedColumn(),
                console=self.console,
            )
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress:
            self.progress.stop()

    def start_notebook(self, name: str) -> None:
        """The next notebook begins."""
        self.number += 1
        self.start(f"notebook {self.number} of {self.notebooks}, {name}")

    def start(self, title: str) -> None:
        """A part of the study begins."""
        self.title, self.began = title, time.monotonic()
        if self.progress:
            self.task = self.progress.add_task(title, total=None)
        else:
            self._print(title)

    def line(self, text: str) -> None:
        """A printed line: what is being trained and how long that will take."""
        if not self.progress:
            self._print(f"  {text}")
            return
        counted = re.match(r"\[(\d+)/(\d+)\]", text)
        done = {"completed": int(counted[1]), "total": int(counted[2])} if counted else {}
        self.progress.update(
            self.task, description=f"{self.title}\n  [dim]{text.replace('[', chr(92) + '[')}[/dim]", **done
        )

    def end(self, state: str) -> None:
        """The part is through."""
        if self.progress:
            self.progress.remove_task(self.task)
        self._print(f"{self.title}: {state}, {time.monotonic() - self.began:.0f} s")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
