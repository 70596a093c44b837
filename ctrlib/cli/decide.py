"""``ctrlib decide``: what pays on a log of one's own."""

import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from ctrlib.cli.output import reporting, say

MOST_ROWS = 1_000_000  # that are read unless --rows says otherwise
DRAWS = 5
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def decide(
    context: typer.Context,
    log: Annotated[
        str,
        typer.Argument(
            help="Your log (a file or a folder as for [bold]ctrlib data prepare[/bold]), or a prepared data set."
        ),
    ],
    minutes: Annotated[
        float, typer.Option(min=0.5, help="How long training may take, about; three replicates are trained anyway.")
    ] = 10.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report. (Default: decide_NAME, here.)", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the notebook; may be repeated."),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Write the recommended models into model/ of the folder, for ctrlib predict.")
    ] = False,
) -> None:
    """Should the models of your log be coupled, averaged, distilled, or left alone? A report with an answer.

    The log is prepared in five divisions (with --split time in one: replicates then differ by seeds alone); the best of
    eight recipes is sought with one model; then as many replicates are trained as the time allows, with and without
    peers, and report.html says what pays, by rule from intervals. What is trained is kept: the same command with more
    minutes goes on. All options of [bold]ctrlib data prepare[/bold] may follow: --label, --positive, --split, ...

    [dim]ctrlib decide clicks.csv --label clicked[/dim]

    [dim]ctrlib decide clicks.parquet --label clicked --time-column at --split time --minutes 30[/dim]

    [dim]ctrlib decide clicks.csv --label clicked --save[/dim]      and then: ctrlib predict decide_clicks/model new.csv

    [dim]ctrlib decide criteo_100k --set instances=4[/dim]        a data set that is prepared already
    """
    from ctrlib.data.folders import data_root, is_prepared, project_root
    from ctrlib.data.manifest import read_manifest
    from ctrlib.data.new_rows import check_own
    from ctrlib.data.sources import find
    from ctrlib.errors import UserError
    from ctrlib.publish.report import write_report
    from ctrlib.publish.slides import ExecutedPages
    from ctrlib.run import decide as plan
    from ctrlib.run.plan import read_overrides
    from ctrlib.store.progress import humanize

    root, began, file = project_root(), time.monotonic(), Path(log)
    plan.find_notebooks(root)  # refuses any other folder than the project's, before anything is done
    name = re.sub(r"[^\w.-]+", "_", file.stem) or "log"
    folder = (out or Path(f"decide_{name}")).resolve()
    overrides = read_overrides(set_ or [])
    for key in plan.CHOSEN:
        if key in overrides:
            raise UserError(f"--set {key}: this command chooses it; `ctrlib study --only {plan.NUMBER}` takes any")
    if any(folder.is_relative_to(root / pages) for pages in ("book", "notebooks")):
        raise UserError(f"--out {folder}: is where the pages of the book are; allowed: any other folder")
    if log == "-" or file.is_fifo():
        raise UserError(f"{log}: can be read only once, and this command reads its log again; write it to a file")
    raw = file.is_file() or (file.is_dir() and not is_prepared(file) and not is_prepared(data_root() / log))
    if not raw and context.args:
        raise UserError(f"{log}: no such file, and {context.args[0]} is for raw files alone")

    def prepare(*options: str) -> str:
        return _prepare(file, f"decide_{name}", [*context.args, *options])

    dataset = prepare() if raw else log
    if save:
        check_own(read_manifest(find(dataset)))
    folds = any(option.startswith("--fold-column") for option in context.args)  # the first rows may lack some
    cut = None if folds or not raw else lambda rows: prepare("--rows", str(rows))
    notebook, lines = plan.make_decision_notebook(root, dataset, overrides, minutes, folder, say, reporting, cut, save)
    report = write_report(notebook, f"Should the models of {name} be coupled?", folder)
    for line in (ExecutedPages(folder).value("your_log", "recommendation"), *lines):
        say(line)
    say(f"{humanize(time.monotonic() - began)}; report: {report}")


def _prepare(file: Path, name: str, options: list[str]) -> str:
    """Prepare a raw file as the data set ``name`` with the options of ``ctrlib data prepare``; the name."""
    from ctrlib.cli.data import data_app
    from ctrlib.errors import UserError

    command = typer.main.get_command(data_app).commands["prepare"]
    given = {option.partition("=")[0] for option in options}
    by_time = "--split=time" in options or ("--split", "time") in pairwise(options)
    usual = [] if given & {"--draws", "--fold-column", "--valid", "--test"} or by_time else ["--draws", str(DRAWS)]
    usual += [] if "--rows" in given else ["--rows", str(MOST_ROWS)]
    if "--raw" in given or "--out" in given:
        raise UserError(
            "--raw and --out of `ctrlib data prepare` are not for this command: it takes the file, and --out"
        )
    context = command.make_context("decide", [name, "--raw", str(file), *usual, *options])
    command.invoke(context)
    return name


def predict(
    model: Annotated[Path, typer.Argument(help="The folder model/ that [bold]ctrlib decide --save[/bold] made.")],
    file: Annotated[Path, typer.Argument(help="New rows with the columns of the log; no label is needed.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The CSV to write, a line a row. (Default: FILE_scored.csv, here.)", show_default=False),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A column of the file to write beside the probability, '*' for all; may be repeated."),
    ] = None,
) -> None:
    """Click probabilities of new rows by saved models, in the order of the file.

    A value that training did not show counts as unseen. Rows that were trained on get flattering scores.

    [dim]ctrlib predict decide_clicks/model new.csv --keep id[/dim]
    """
    import polars as pl

    from ctrlib.errors import UserError
    from ctrlib.run.predict import predict_file

    with reporting(f"reading {file.name}") as report:
        probabilities, unseen, kept = predict_file(model, file, report, keep or ())
    if "probability" in kept.columns:
        raise UserError(f"--keep {keep[0]}: {file} has a column 'probability'; keep others, or rename it")
    path = out or Path(f"{file.stem}_scored.csv")
    pl.DataFrame([*kept, pl.Series("probability", [f"{p:.6g}" for p in probabilities])]).write_csv(path)
    say(f"{len(probabilities):,} rows scored, mean probability {probabilities.mean():.4f}: {path}")
    say(f"rows whose value is unseen or rare in training: {', '.join(f'{n} {s:.1%}' for n, s in unseen.items())}")
