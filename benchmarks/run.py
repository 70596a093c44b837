"""The command: ``python -m benchmarks.run``; ``make bench`` installs the peers and runs all of it."""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from benchmarks.machine import describe, short_name
from benchmarks.process import run_child
from benchmarks.report import Report, load, tables
from benchmarks.suites import ONLY_BY_NAME, SUITES, Contender, Group

RESULTS = Path(__file__).resolve().parent / "results"
FORMAT = 1
USUAL = ",".join(name for name in SUITES if name not in ONLY_BY_NAME)

HELP = """Time and memory of ctrlib beside its peers and beside the floor of this machine.

Contenders take turns: repeat 1 of each, repeat 2 of each, and so on; every measurement is a process of its own,
pinned to one core. What else the machine did meanwhile is noted, so run it when nothing else does.
One JSON file with every measurement goes to benchmarks/results/; the table shows ratios within that file only.

Suites: train (each peer, one model), floor (products, bandwidth), study (the sizes of the book), cohort (K=4, two
cores), workers (overhead of a run), precision (bf16), auc, start, waiting (the commands of the README in a fresh
clone), synthetic, encode (raw text), scale (rows, codes, members), stream, gpu (skipped without one). By its name
alone: encode_full (Criteo's 45.8 million rows; hours, and 60 GB of disk).

Examples:

  python -m benchmarks.run                          everything, about an hour on two cores

  python -m benchmarks.run --only train,floor       the peers and the floor

  python -m benchmarks.run --quick --only start     does it run at all? (its numbers mean nothing)

  python -m benchmarks.run --show FILE.json         the table of an earlier run
"""


def main(
    only: Annotated[str, typer.Option(help="Suites, separated by commas.", metavar="SUITES")] = USUAL,
    quick: Annotated[bool, typer.Option("--quick", help="Smallest sizes, one repeat: shows that it runs.")] = False,
    show: Annotated[Path | None, typer.Option(help="Show the table of this file; measure nothing.")] = None,
    results: Annotated[Path, typer.Option(help="Folder for the result file.")] = RESULTS,
    into: Annotated[
        Path | None, typer.Option(help="Measure these suites again and put them into this file of the same machine.")
    ] = None,
) -> None:
    """Measure, write one file, print the table."""
    if show:
        print_report(load(show))
        return
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in SUITES]
    if unknown or not names:
        wrong = ", ".join(unknown) or "nothing"
        raise typer.BadParameter(f"{wrong}: allowed are {', '.join(SUITES)}", param_hint="--only")
    machine = describe()
    if into:
        path, content = into, without(json.loads(into.read_text(encoding="utf-8")), names, machine)
    else:
        content = {"format": FORMAT, "started": now(), "quick": quick, "suites": names, "machine": machine}
        content |= {"skipped": [], "measurements": []}
        stamp = time.strftime("%Y-%m-%d-%H%M")
        path = results / f"{stamp}-{short_name(machine)}{'-quick' if quick else ''}.json"
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for group in SUITES[name](quick, Path(folder)):
                measure(name, group, content, path)
    content["finished"] = now()
    write(content, path)
    print_report(tables(content))
    typer.echo(f"every measurement: {path}")


def without(content: dict, suites: list[str], machine: dict) -> dict:
    """A result file's content without some suites, to measure them again; refused for another machine's file.

    What is compared with each other must come from one run: ``train`` and ``floor`` go together.
    """
    for name in ("processor", "vector_instructions", "cores", "versions"):
        if content["machine"][name] != machine[name]:
            other = f"{content['machine'][name]}, here it is {machine[name]}"
            raise typer.BadParameter(f"made where {name} is {other}", param_hint="--into")
    if len({"train", "floor"} & set(suites)) == 1:
        raise typer.BadParameter("train and floor are compared, so they go together", param_hint="--only")
    kept = {part: [row for row in content[part] if row["suite"] not in suites] for part in ("skipped", "measurements")}
    order = [name for name in SUITES if name in {*content["suites"], *suites}]
    again = [*content.get("measured_again", []), {"suites": suites, "started": now(), "commit": machine["commit"]}]
    return {**content, **kept, "suites": order, "measured_again": again}


def measure(suite: str, group: Group, content: dict, path: Path) -> None:
    """Let the contenders of a group take turns; the file is written after each measurement."""
    content["skipped"] += [
        {"suite": suite, "what": what, "who": who, "reason": reason} for what, who, reason in group.skipped
    ]
    contenders = list(group.contenders)
    for repeat in range(group.repeats):
        turns = together(list(contenders), repeat, group.together) if group.together else None
        for contender in list(contenders):
            found = {"suite": suite, **(next(turns) if turns else once(contender, repeat))}
            if "error" in found and repeat == 0:
                contenders.remove(contender)  # what cannot run at first is not tried again and again
            content["measurements"].append(found)
            write(content, path)
            progress(found, group.repeats)


def once(contender: Contender, repeat: int) -> dict:
    """One measurement of one contender."""
    started, arguments = now(), contender.at(repeat)
    return about(contender, arguments, repeat, started, run_child(contender.job, arguments, contender.cores))


def together(contenders: list[Contender], repeat: int, cores: int) -> Iterator[dict]:
    """One measurement of each contender, all of them by one process, one after the other."""
    started, work = now(), [contender.at(repeat) for contender in contenders]
    orders = [[contender.job, arguments] for contender, arguments in zip(contenders, work, strict=True)]
    shared = run_child("turns", {"orders": orders}, cores)
    shared.pop("peak_mb", None)  # of the process; each has its own
    answers = shared.pop("turns", None) or [{} for _ in contenders]
    for contender, arguments, answer in zip(contenders, work, answers, strict=True):
        yield about(contender, arguments, repeat, started, {**shared, **answer})


def about(contender: Contender, arguments: dict, repeat: int, started: str, found: dict) -> dict:
    """What was measured and what came out, as it is written down."""
    names = {"what": contender.what, "who": contender.who, "job": contender.job}
    sizes = {key: value for key, value in arguments.items() if key != "table"}
    return {**names, "arguments": sizes, "repeat": repeat, "started": started, **found}


def progress(found: dict, repeats: int) -> None:
    """One line per measurement on stderr."""
    value = found["error"] if "error" in found else f"{found['value']:.4g} {found['unit']}"
    busy = f", rivals {found['rivals_busy']:.0%}"
    if found["others_busy"] is not None:
        busy += f", other cores {found['others_busy']:.0%} busy"
    place = f"{found['suite']} {found['repeat'] + 1}/{repeats} {found['what']}, {found['who']}"
    typer.echo(f"{place}: {value} ({found['seconds']:.0f} s{busy})", err=True)


def print_report(report: Report) -> None:
    """The table of ratios with targets, and the seconds behind them."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    machine = report.machine
    console.print(f"{machine['processor']}, {machine['cores']} cores, torch {machine['versions']['torch']}")
    ratios = empty_table(("suite", "what"), ("median", "lowest", "highest", "n", "target"), ("met", "peak MB", "note"))
    for row in report.ratios.itertuples():
        met = "" if row.met is None or pd.isna(row.met) else "[green]yes[/]" if row.met else "[red]no[/]"
        numbers = [number(row.value), number(row.low), number(row.high), str(row.n or ""), row.target]
        ratios.add_row(row.suite, escape(row.what), *numbers, met, megabytes(row.peak_mb), escape(row.note))
    console.print(ratios)
    seconds = empty_table(
        ("suite", "what", "who"), ("median", "lowest", "highest"), ("unit", "n", "peak MB", "rivals", "other cores")
    )
    for row in report.timings.itertuples():
        numbers = [number(row.value), number(row.low), number(row.high), row.unit, str(row.n)]
        busy = [per_cent(row.rivals_busy), per_cent(row.others_busy)]
        seconds.add_row(row.suite, escape(row.what), row.who, *numbers, megabytes(row.peak_mb), *busy)
    console.print("Behind the ratios: this machine only, not to be compared with another's.", seconds)


def empty_table(texts: tuple[str, ...], numbers: tuple[str, ...], last: tuple[str, ...]) -> Table:
    """Texts, then numbers to the right, then the rest; only the last column wraps."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, no_wrap=name != last[-1])
    return table


def per_cent(share: float) -> str:
    """A share in per cent, or nothing."""
    return "" if pd.isna(share) else f"{share:.0%}"


def megabytes(value: float) -> str:
    """MB, or nothing."""
    return "" if pd.isna(value) else f"{value:,.0f}"


def number(value: float) -> str:
    """Three digits that count, nothing for no number."""
    if pd.isna(value):
        return ""
    return f"{value:.1e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.3g}"


def now() -> str:
    """UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(content: dict, path: Path) -> None:
    """The result file, never half written."""
    aside = path.with_suffix(".writing")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(help=HELP)(main)

if __name__ == "__main__":
    app()
