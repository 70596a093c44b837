"""``ctrlib study`` and ``ctrlib book``: execute notebooks, render the book."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ctrlib.commands.output import console, say, table


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
) -> None:
    """Execute the study's notebooks with the parameters of a profile, and of [bold]--set[/bold].

    Models that were trained before come from the run store; notebooks that are up to date are not executed again.
    Without --out, executed copies go to _build/study/PROFILE, with --set to a folder of their own.

    [dim]ctrlib study[/dim]                                    all notebooks, minutes on a laptop

    [dim]ctrlib study --only 02 --set instances=5[/dim]        one notebook, five models in a group

    [dim]ctrlib study --set dataset=criteo --set "seeds=[1,2,3]" --set device=cuda[/dim]
    """
    from ctrlib.config import project_root
    from ctrlib.study import execute, plan, read_overrides

    root = project_root()
    jobs = plan(root, profile, only or [], read_overrides(set_ or []), out.absolute() if out else None)
    outcomes = []
    with Reporter(len(jobs)) as reporter:
        for job in jobs:
            reporter.start(job.name)
            outcomes.append(execute(job, root, reporter.line))
            reporter.end(outcomes[-1])
    summary = table("notebook", "state", numbers=("seconds",))
    for outcome in outcomes:
        colour = "red" if outcome.state == "failed" else "green"
        summary.add_row(outcome.job.name, f"[{colour}]{outcome.state}[/]", f"{outcome.seconds:.0f}")
    console(stderr=False).print(summary)
    say(f"executed notebooks, profile {profile}: {shown(jobs[0].output.parent, root)}")
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failures:
        line = f"error: {outcome.job.source.name}: {outcome.error}; see {shown(outcome.job.failed_copy, root)}"
        typer.secho(line, fg="red", err=True)
    if failures:
        raise typer.Exit(1)


def book(
    profile: Annotated[str, typer.Option(help="Whose executed notebooks to show.")] = "quick",
    out: Annotated[Path | None, typer.Option(help="Folder that gets _build/html (default: the project).")] = None,
) -> None:
    """Render the book from executed notebooks to [bold]_build/html/index.html[/bold]; nothing is trained.

    [dim]ctrlib book[/dim]     after [dim]ctrlib study[/dim]; [dim]make book[/dim] does both
    """
    from ctrlib.book import render
    from ctrlib.config import project_root

    root = project_root()
    page = render(root, root / "_build" / "study" / Path(profile).stem, out.absolute() if out else None)
    typer.echo(f"The book: {shown(page, root)}")


def shown(path: Path, root: Path) -> str:
    """A path below the project without the part everybody knows."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


class Reporter:
    """On a terminal one moving line (notebook, run, time); in a log file one line per thing that happened."""

    def __init__(self, notebooks: int) -> None:
        self.console = console()
        self.notebooks, self.number, self.name = notebooks, 0, ""
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

    def start(self, name: str) -> None:
        """A notebook begins."""
        self.number, self.name = self.number + 1, name
        if self.progress:
            self.task = self.progress.add_task(self._title(), total=None)
        else:
            self._print(self._title())

    def line(self, text: str) -> None:
        """A printed line of the notebook: what it is training and how long that will take."""
        if not self.progress:
            self._print(f"  {text}")
            return
        counted = re.match(r"\[(\d+)/(\d+)\]", text)
        done = {"completed": int(counted[1]), "total": int(counted[2])} if counted else {}
        self.progress.update(
            self.task, description=f"{self._title()}\n  [dim]{text.replace('[', chr(92) + '[')}[/dim]", **done
        )

    def end(self, outcome: Any) -> None:
        """A notebook is through."""
        if self.progress:
            self.progress.remove_task(self.task)
        self._print(f"{self._title()}: {outcome.state}, {outcome.seconds:.0f} s")

    def _title(self) -> str:
        return f"notebook {self.number} of {self.notebooks}, {self.name}"

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
