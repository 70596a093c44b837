"""``ctrlib data``: what data sets there are, how to fetch or prepare one, what is in it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ctrlib.cli.output import console, plain, reporting, say, share, table

data_app = typer.Typer(
    no_args_is_help=True, help="Data sets: what there is, how to fetch or prepare one, what is in it."
)


class Layout(StrEnum):
    """Layouts of raw files."""

    CRITEO = "criteo"
    AVAZU = "avazu"
    FRAPPE = "frappe"
    TABLE = "table"


class SplitBy(StrEnum):
    """Ways to divide rows."""

    RANDOM = "random"
    TIME = "time"


class NumericRule(StrEnum):
    """Ways to make categories of numbers."""

    QUANTILE = "quantile"
    CRITEO = "criteo"


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder with the prepared data sets. (Default: data/ of the project, or $CTRLIB_DATA.)"
    ),
]


@data_app.command("list")
def data_list(data_dir: DataDir = None) -> None:
    """List every data set: built in, prepared, waiting for its raw file, or to be fetched.

    Example: [bold]ctrlib data list[/bold]
    """
    from ctrlib.data import sources

    entries = sources.catalogue(data_dir)
    shown = table("name", "kind", "state", numbers=("rows", "fields", "clicks", "draws"))
    shown.columns[1].no_wrap = True  # the state may take two lines
    for entry in entries:
        cells = (entry.name, entry.kind, entry.state, entry.rows, entry.fields, share(entry.click_rate), entry.draws)
        shown.add_row(*map(plain, cells))
    console(stderr=False).print(shown)
    for entry in entries:
        say(f"{entry.name}: {entry.how}")


@data_app.command("prepare")
def data_prepare(
    name: Annotated[
        str, typer.Argument(help="Name of the data set to make. criteo, avazu and frappe also choose that layout.")
    ],
    raw: Annotated[
        Path, typer.Option(help="The raw file: text, .gz text, Parquet, or Frappe's zip.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder under which NAME is made. (Default: data/ of the project, or $CTRLIB_DATA.)"),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(
            help="Layout of the raw file, when NAME does not say it. (Default: table, your own CSV or Parquet.)"
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="Own data: the column with 0 and 1.")] = "label",
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Own data: columns to leave out; repeat it or use commas. Patterns work: 'id,debug_*'."),
    ] = None,
    numeric: Annotated[
        list[str] | None,
        typer.Option(
            help="Own data: columns to cut into buckets. Without it: fractions, and whole numbers with more "
            "than 1000 distinct training values. Patterns work: 'I*'."
        ),
    ] = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option(help="Own data: columns whose every value is a category, such as ids stored as numbers: 'C*'."),
    ] = None,
    buckets: Annotated[int, typer.Option(help="Own data: buckets of a numeric column, equally full in train.")] = 20,
    numeric_rule: Annotated[
        NumericRule,
        typer.Option(
            help="Own data: quantile: buckets fitted on train. criteo: x above 2 becomes floor(ln(x)^2), for counts."
        ),
    ] = NumericRule.QUANTILE,
    split: Annotated[
        SplitBy,
        typer.Option(help="random: by --split-seed. time: train is the earliest part (avazu, or with --time-column)."),
    ] = SplitBy.RANDOM,
    split_seed: Annotated[
        int, typer.Option(help="Seed of draw 0; draw d uses this plus d. Frappe's negatives use it too.")
    ] = 0,
    draws: Annotated[
        int, typer.Option(help="How many divisions of the same rows to make, so that a study can average over them.")
    ] = 1,
    shares: Annotated[str, typer.Option(help="Shares of train, valid and test.")] = "0.8,0.1,0.1",
    min_count: Annotated[
        int | None,
        typer.Option(
            help="Values seen less often than this in train share one code, with those never seen. "
            "(Default: 2; frappe: 1.)"
        ),
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(help="Own data: the column to sort by for --split time; it is no feature.")
    ] = None,
    fold_column: Annotated[
        str | None,
        typer.Option(
            help="Own data: the column that says the fold of a row; it is no feature. As many draws as folds: draw d "
            "tests on fold d, validates on the next and trains on the rest, so each row is tested once."
        ),
    ] = None,
    negatives: Annotated[
        int, typer.Option(help="Frappe: items drawn for each use, among those the user never used.")
    ] = 2,
    rows: Annotated[
        int | None, typer.Option(help="Use only the first so many rows, for example of the full Criteo file.")
    ] = None,
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
    """
    from ctrlib.config import checked
    from ctrlib.data import sources

    options = checked(
        sources.PrepareOptions,
        layout=layout and layout.value,
        label=label,
        drop=_names(drop),
        numeric=_names(numeric),
        categorical=_names(categorical),
        buckets=buckets,
        split=split.value,
        split_seed=split_seed,
        draws=draws,
        shares=tuple(shares.split(",")),
        min_count=min_count,
        numeric_rule=numeric_rule.value,
        time_column=time_column,
        fold_column=fold_column,
        negatives=negatives,
        rows=rows,
    )
    with reporting(f"preparing {name}") as report:
        folder = sources.prepare(name, raw, out, options, report)
    _show_prepared(folder)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[
        str,
        typer.Argument(help="criteo_x1, criteo_x4, avazu_x1, avazu_x4, frappe_x1 or movielenslatest_x1."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder under which NAME is made. (Default: data/ of the project, or $CTRLIB_DATA.)"),
    ] = None,
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

    The disk is checked first, and every file against its published MD5. Interrupted, it goes on where it was when you
    give the same command again.

    Examples:

    [bold]ctrlib data fetch frappe_x1[/bold]

    [bold]ctrlib data fetch criteo_x4 --endpoint https://hf-mirror.com[/bold]

    [bold]ctrlib data fetch criteo_x4 --min-count 2[/bold]   (the benchmark's setting criteo_x4_002)
    """
    from ctrlib.data.fetch import fetch
    from ctrlib.data.published import PUBLISHED

    if name in PUBLISHED:
        say(f"{name}: {PUBLISHED[name].terms}")
    with reporting(f"fetching {name}") as report:
        folder = fetch(name, out, endpoint, archive, min_count, keep, report)
    _show_prepared(folder)


@data_app.command("describe")
def data_describe(
    name: Annotated[str, typer.Argument(help="A name from `ctrlib data list`, or the path of a prepared folder.")],
    draw: Annotated[int, typer.Option(min=0, help="Which draw (division into train, valid and test) to look at.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """Show rows, click rate, and for each field its size, its share of code 0, and its most frequent code.

    Example: [bold]ctrlib data describe criteo --draw 1[/bold]
    """
    from ctrlib.data import sources

    with reporting(f"reading {name}"):
        facts = sources.describe(name, draw, data_dir)
    _show_splits([facts])
    shown = table("field", numbers=("codes", "0 in train", "0 in valid", "0 in test", "top code"))
    for field in facts["fields"]:
        shares = (field.get(f"oov_{part}") for part in ("train", "valid", "test"))
        cells = (field["field"], field["dim"], *map(share, shares))
        shown.add_row(*map(plain, (*cells, share(field["top_share"]))))
    console(stderr=False).print(shown)
    say(f"numeric, in buckets: {', '.join(f['field'] for f in facts['fields'] if f['numeric']) or 'none'}")


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
        typer.secho(f"error: {problem}", fg="red", err=True)
    say(f"{len(names)} data sets checked, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _show_prepared(folder: Path) -> None:
    """What a preparation has made."""
    from ctrlib.data import sources

    facts = sources.summary(folder)
    _show_splits(facts["draws"])
    fields = facts["draws"][0]["fields"]
    codes = sum(field["dim"] for field in fields)
    say(f"{len(fields)} fields, {codes:,} codes; numeric, in buckets: {', '.join(facts['numeric_columns']) or 'none'}")
    say(f"prepared: {folder}")


def _show_splits(draws: list[dict[str, Any]]) -> None:
    shown = table("data set", "draw", "part", numbers=("rows", "clicks", "click rate"), last=("fingerprint",))
    for facts in draws:
        for line in facts["splits"]:
            first = line is facts["splits"][0]
            start = (facts["name"], facts["draw"]) if first else ("", "")
            cells = (*start, line["part"], line["rows"], line["clicks"], share(line["click_rate"]))
            shown.add_row(*map(plain, (*cells, facts["fingerprint"] if first else "")))
    console(stderr=False).print(shown)


def _names(values: list[str] | None) -> tuple[str, ...]:
    """Column names from repeated and comma-separated options."""
    return tuple(name.strip() for value in values or () for name in value.split(",") if name.strip())
