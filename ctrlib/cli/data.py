"""``ctrlib data``: what data sets there are, how to fetch or prepare one, what is in it."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from ctrlib.cli.output import complain, plain, reporting, say, share, show, table
from ctrlib.data.options import PrepareOptions

data_app = typer.Typer(
    no_args_is_help=True, help="Data sets: what there is, how to fetch or prepare one, what is in it."
)

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the prepared data sets. (Default: data/ of the project, or $CTRLIB_DATA.)"),
]


@data_app.command("list")
def data_list(data_dir: DataDir = None) -> None:
    """List every data set: built in, prepared, waiting for its raw file, or to be fetched.

    Example: [bold]ctrlib data list[/bold]
    """
    from ctrlib.data import sources
    from ctrlib.data.published import CLICK_LOGS, CLICK_LOGS_TERMS, RAW_LOGS

    entries = sources.catalogue(data_dir)
    shown = table("name", "kind", "state", numbers=("rows", "fields", "clicks", "draws"))
    shown.columns[1].no_wrap = True  # the state may take two lines
    for entry in entries:
        cells = (entry.name, entry.kind, entry.state, entry.rows, entry.fields, share(entry.click_rate), entry.draws)
        shown.add_row(*map(plain, cells))
    show(shown)
    for entry in entries:
        say(f"{entry.name}: {entry.how}")
    first, *_, last = RAW_LOGS
    say(f"{first} to {last}: ctrlib data fetch {first}, one raw day each: {CLICK_LOGS}; {CLICK_LOGS_TERMS}")


Out = Annotated[
    Path | None,
    typer.Option(help="Folder under which NAME is made. (Default: data/ of the project, or $CTRLIB_DATA.)"),
]


def with_prepare_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of ``PrepareOptions``, with the field's help, as keyword arguments.

    Fields that hold several texts may be repeated or use commas.
    """
    signature = inspect.signature(command)
    parameters = [one for one in signature.parameters.values() if one.kind != inspect.Parameter.VAR_KEYWORD]
    for name, field in PrepareOptions.model_fields.items():
        kind, default = field.annotation, field.default
        if get_origin(kind) is tuple:
            several = get_args(kind)[-1] is Ellipsis
            kind, default = (list[str] | None, None) if several else (str, ",".join(map(str, default)))
        annotated = Annotated[kind, typer.Option(help=field.description)]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotated)
        )
    command.__signature__ = signature.replace(parameters=parameters)
    return command


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """Options as the settings take them: repeated and comma-separated names, and shares, as tuples."""
    made = dict(given)
    for name, value in given.items():
        if get_origin(PrepareOptions.model_fields[name].annotation) is tuple:
            text = ",".join(value) if isinstance(value, list) else value or ""
            made[name] = tuple(part.strip() for part in text.split(",") if part.strip())
    return made


@data_app.command("prepare")
@with_prepare_options
def data_prepare(
    name: Annotated[
        str, typer.Argument(help="Name of the data set to make. criteo, avazu and frappe also choose that layout.")
    ],
    raw: Annotated[
        list[Path],
        typer.Option(
            help="The raw file: text (also packed, or - for standard input), Parquet, or Frappe's zip. Own data: a "
            "folder, or repeat it for several files with one header.",
            show_default=False,
        ),
    ],
    valid: Annotated[Path | None, typer.Option(help="Own data: the file of the validation rows, beside --raw.")] = None,
    test: Annotated[Path | None, typer.Option(help="Own data: the file of the test rows, beside --raw.")] = None,
    out: Out = None,
    **options: Any,
) -> None:
    """Turn a raw file into integer codes, divided into train, valid and test.

    Vocabularies and buckets know the training rows only. Values that are rare or unseen there get code 0. An earlier
    data set of the same name is replaced only when the new one is complete.

    Examples:

    [bold]ctrlib data prepare criteo --raw train.txt --rows 1000000[/bold]

    [bold]ctrlib data prepare avazu --raw train.gz --split time[/bold]

    [bold]ctrlib data prepare frappe --raw Mobile_Frappe.zip[/bold]

    [bold]ctrlib data prepare shop --raw shop.csv --label clicked --drop id --draws 3[/bold]

    [bold]ctrlib data prepare shop --raw shop.csv --label clicked --fold-column fold[/bold]

    [bold]ctrlib data prepare shop --raw a.csv --valid b.csv --test c.csv --label stars --positive '>3'[/bold]
    """
    from ctrlib.config import checked
    from ctrlib.data import sources

    settings = checked(PrepareOptions, **_values(options))
    _say_where(out)
    with reporting(f"preparing {name}") as report:
        folder = sources.prepare(name, raw, out, settings, report, [one for one in (valid, test) if one])
    _show_prepared(folder)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="criteo_x1, criteo_x4, avazu_x1, avazu_x4, frappe_x1, movielenslatest_x1, or criteo_day_0 to _23."
        ),
    ],
    out: Out = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Address of a mirror of the hub. (Default: https://huggingface.co, or $HF_ENDPOINT.)"),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(help="The published zip, downloaded by other means: nothing is asked of the network."),
    ] = None,
    min_count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Values seen less often than this in train share one code. (Default: the benchmark's, 10 for "
            "criteo_x4, 2 for avazu_x4, else 1.)",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the downloaded files, below .fetched/ of --out.")] = False,
) -> None:
    """Download a published data set and prepare it, divided into train, valid and test as published.

    The disk is checked first, and every file against its published MD5. A day of Criteo's click logs, criteo_day_0, has
    neither division nor MD5: its rows are divided at random. Interrupted, it goes on where it was when you
    give the same command again.

    Examples:

    [bold]ctrlib data fetch frappe_x1[/bold]

    [bold]ctrlib data fetch criteo_x4 --endpoint https://hf-mirror.com[/bold]

    [bold]ctrlib data fetch criteo_x4 --min-count 2[/bold]   (the benchmark's setting criteo_x4_002)
    """
    from ctrlib.data.fetch import fetch
    from ctrlib.data.published import CLICK_LOGS_TERMS, PUBLISHED, RAW_LOGS

    _say_where(out)
    if name in PUBLISHED:
        say(f"{name}: {PUBLISHED[name].terms}")
    elif name in RAW_LOGS:
        say(f"{name}: {CLICK_LOGS_TERMS}")
    with reporting(f"fetching {name}") as report:
        folder = fetch(name, out, endpoint, archive, min_count, keep, report)
    _show_prepared(folder)


@data_app.command("describe")
def data_describe(
    name: Annotated[str, typer.Argument(help="A name from `ctrlib data list`, or the path of a prepared folder.")],
    draw: Annotated[int, typer.Option(min=0, help="Which draw (division into train, valid and test) to look at.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write a page with a picture of each field to this file.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Show rows, click rate and times of each part, and for each field how it was read and what it holds.

    AUC: of that field alone, in validation. 0: rare values, and those that train never shows.

    Examples:

    [bold]ctrlib data describe criteo --draw 1[/bold]

    [bold]ctrlib data describe shop --html shop.html[/bold]
    """
    from ctrlib.data import sources

    with reporting(f"reading {name}"):
        facts = sources.describe(name, draw, data_dir)
    if html is not None:
        from ctrlib.cli.data_page import page

        html.write_text(page(facts), encoding="utf-8")
        say(f"written: {html}")
        return
    _show_splits([facts])
    numbers = ("codes", "0 train", "0 valid", "0 test", "missing", "top code", "AUC")
    shown = table("field", numbers=numbers)
    for field in facts["fields"]:
        shares = (field.get(name) for name in ("oov_train", "oov_valid", "oov_test", "missing", "top_share"))
        shown.add_row(*map(plain, (field["field"], field["dim"], *map(share, shares), f"{field['auc']:.3f}")))
    show(shown)
    _show_columns(facts["about"])
    for line in facts["splits"]:
        kind = "rows of train come twice" if line["part"] == "train" else f"rows of {line['part']} are in train too"
        say(f"{share(line['repeated'])} of the {kind} (all fields alike)")


def _show_columns(about: dict[str, Any]) -> None:
    """How each column was read, why, and how to change that; and what else should be known."""
    shown = table("field", "read as", "changed by")
    for name, what in about.get("columns", {}).items():
        kind = "buckets" if what["numeric"] else "categories"
        shown.add_row(*map(plain, (name, f"{kind}: {what['why']}", what["change"])))
    if shown.rows:
        show(shown)
    numeric = ", ".join(about.get("numeric_columns", ())) or "none"
    say(f"numeric, in buckets: {numeric}")
    for note in about.get("notes", ()):
        say(f"note: {note}")


@data_app.command("verify")
def data_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names; every prepared data set if none is given.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Read every file of prepared data sets and compare it with its checksum; exit code 1 when one is damaged.

    Opening a data set checks it too, but a file of 256 MB or more only once, as long as nobody writes to it.

    Example: [bold]ctrlib data verify criteo[/bold]
    """
    from ctrlib.data import sources
    from ctrlib.errors import UserError

    problems = []
    names = names or [e.name for e in sources.catalogue(data_dir) if e.state in ("prepared", "damaged")]
    with reporting("reading") as report:
        for name in names:
            try:
                problems += sources.verify(name, data_dir, report)
            except UserError as problem:
                problems.append(str(problem))
    for problem in problems:
        complain(f"error: {problem}")
    say(f"{len(names)} data sets checked, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _say_where(out: Path | None) -> None:
    """Say into which folder data will go where nobody has named one."""
    from ctrlib.data.folders import data_root, is_in_project

    if not (out or is_in_project() or os.environ.get("CTRLIB_DATA")):
        say(f"not a folder of this project: data go to {data_root()}, where commands given here find them; see --out")


def _show_prepared(folder: Path) -> None:
    """What a preparation has made, how each column was read and how to change that, and what looks wrong."""
    from ctrlib.data import sources

    facts = sources.summary(folder)
    _show_splits(facts["draws"])
    _show_columns(facts["about"])
    dims = [field["dim"] for field in facts["draws"][0]["fields"]]
    say(f"{len(dims)} fields, {sum(dims):,} codes")
    say(f"prepared: {folder}")


def _show_splits(draws: list[dict[str, Any]]) -> None:
    shown = table("data set", "draw", "part", numbers=("rows", "clicks", "click rate"), last=("fingerprint",))
    for facts in draws:
        for line in facts["splits"]:
            first = line is facts["splits"][0]
            start = (facts["name"], facts["draw"]) if first else ("", "")
            cells = (*start, line["part"], line["rows"], line["clicks"], share(line["click_rate"]))
            shown.add_row(*map(plain, (*cells, facts["fingerprint"] if first else "")))
    show(shown)
    for facts in draws:
        for line in facts["splits"] if "first" in facts["splits"][0] else ():
            say(f"draw {facts['draw']}, {line['part']}: from {line['first']} to {line['last']}")
