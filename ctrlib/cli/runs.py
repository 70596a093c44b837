"""``ctrlib runs``: what is in the run store."""

import contextlib
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from ctrlib.cli.output import complain, reporting, say, show, table, visible

runs_app = typer.Typer(no_args_is_help=True, help="Run records: every training that was done, kept and checked.")
Store = Annotated[
    Path | None, typer.Option(help="Folder of the run store. (Default: runs/ of the project, or $CTRLIB_RUNS.)")
]


def open_store(folder: Path | None):
    """The store that is meant."""
    from ctrlib.data.folders import store_root
    from ctrlib.store.runs import RunStore

    return RunStore(folder or store_root())


@runs_app.command("list")
def runs_list(store: Store = None) -> None:
    """List every run: its fingerprint, kept epochs, test AUC, seconds of training, data, and what it is.

    [bold]ctrlib runs verify[/bold] also compares the checksums of weights and predictions.

    [dim]ctrlib runs list[/dim]
    """
    from ctrlib.errors import UserError
    from ctrlib.store.progress import label

    found = open_store(store)
    lines = [f"{'run':16}  {'epoch':>7}  test AUC  {'seconds':>7}  what"]
    for name in found.fingerprints():
        try:
            one = found.open(name)
        except UserError:
            lines.append(f"{name}  not readable; `ctrlib runs verify` says why")
            continue
        epochs = "-".join(str(epoch) for epoch in sorted(set(one.content["kept_epochs"])))
        auc = fmean(test["auc"] for test in one.content["test"])
        what = " ".join(f"{one.run.data.name}: {label(one.run)}".split())
        lines.append(f"{name}  {epochs:>7}  {auc:8.4f}  {one.seconds:7.1f}  {what}")
    typer.echo(visible("\n".join(lines)))  # thousands of lines: a table of rich would take ten times as long
    say(f"{len(lines) - 1} runs in {found.root}")


@runs_app.command("show")
def runs_show(
    run: Annotated[str, typer.Argument(help="Fingerprint of a run, or the beginning of one.")], store: Store = None
) -> None:
    """Show one run: settings, every epoch, test results, and the machine it ran on.

    [dim]ctrlib runs show 3fa9[/dim]
    """
    import yaml

    from ctrlib.store.progress import label

    record = open_store(store).open(run)
    content = record.content
    say(f"run {record.fingerprint}: {label(record.run)}\n")
    say(yaml.safe_dump({"settings": content["run"], "environment": content["environment"]}, sort_keys=False))
    history = table(numbers=("epoch", "member", "rate", "click loss", "peer loss", "valid AUC", "log loss"))
    row_format = (
        "{epoch} {member} {learning_rate:g} {click_loss:.5f} {peer_loss:.6f} {valid_auc:.5f} {valid_logloss:.5f}"
    )
    for row in record.history:
        history.add_row(*row_format.format(**row).split())
    test = table("member", "architecture", numbers=("kept epoch", "test AUC", "log loss", "calibration"))
    for n, row in enumerate(content["test"]):
        metrics = "{auc:.5f} {logloss:.5f} {calibration:.4f}".format(**row).split()
        test.add_row(f"{n}", record.run.members[n].architecture, f"{content['kept_epochs'][n]}", *metrics)
    show(history)
    show(test)


@runs_app.command("verify")
def runs_verify(
    runs: Annotated[list[str] | None, typer.Argument(help="Fingerprints; all runs if none is given.")] = None,
    recompute: Annotated[
        int | None, typer.Option(min=1, help="Instead train so many recorded runs again, and compare.", metavar="N")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which runs --recompute draws.")] = 0,
    store: Store = None,
) -> None:
    """Check every file of every run, and the state of every unfinished training, against its checksum.

    Exit code 1 when one is damaged, or was written by another ctrlib. A damaged run is trained again when it is needed,
    a training whose state is damaged starts from its beginning; a run of another ctrlib is left as it is.

    [dim]ctrlib runs verify[/dim]

    [dim]ctrlib runs verify --recompute 3[/dim]     do published numbers come out again? Cheap runs, drawn by --seed;
    bit for bit on a machine of the same kind, within a tolerance elsewhere; where none are published, the store's
    """
    if recompute is not None:
        if runs:
            raise typer.BadParameter("give fingerprints or --recompute, not both", param_hint="--recompute")
        return recompute_runs(recompute, seed, open_store(store), published=store is None)
    from rich.progress import track

    from ctrlib.errors import UserError
    from ctrlib.store.record import Damaged

    found = open_store(store)
    names = [found.name(name) for name in runs] if runs else found.fingerprints()
    states = [] if runs else sorted(found.root.glob(".training-*/state"))
    if states:
        from ctrlib.store.checkpoints import read_state  # which takes torch
    problems = []
    for one in track([*names, *states], "checking", transient=True):
        try:
            _ = read_state(one) if one in states else found.verify(one)
        except UserError as problem:
            problems.append(("damaged" if isinstance(problem, Damaged) else "cannot be used", problem))
    for kind, problem in sorted(problems, key=lambda one: one[0], reverse=True):
        complain(f"{kind}: {problem}")
    trainings = f", {len(states)} unfinished trainings" if states else ""
    damaged = [kind for kind, _ in problems].count("damaged")
    typer.echo(
        f"{len(names)} runs{trainings} checked, {damaged} damaged, {len(problems) - damaged} that cannot be used"
    )
    if problems:
        raise typer.Exit(1)


def recompute_runs(count: int, seed: int, found, published: bool) -> None:
    """Train recorded runs again and say for each whether it matches; exit code 1 if one does not."""
    from ctrlib.errors import UserError
    from ctrlib.store.published import committed_results
    from ctrlib.store.recompute import recompute

    contents, where = (committed_results().runs, "published") if published else ({}, "")
    if not contents:
        contents, where = {}, f"in {found.root}"
        for name in found.fingerprints():
            with contextlib.suppress(UserError):  # `verify` without --recompute names what is damaged
                contents[name] = found.open(name).content
    if not contents:
        raise UserError(f"no runs are published, and none are in {found.root}; `ctrlib study` trains some")
    say(f"{len(contents):,} runs {where}; computing {count} of them again, drawn by seed {seed}")
    matches = []
    with reporting("training") as tell:
        for line, match in recompute(contents, count, seed, tell):
            matches.append(match)
            say(line)
    say(f"{sum(matches)} of {len(matches)} match")
    if not all(matches):
        raise typer.Exit(1)


@runs_app.command("gc")
def runs_gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed; without it nothing is.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also states from which an interrupted training would go on.")
    ] = False,
    store: Store = None,
) -> None:
    """List what no study will ask for again, and with --delete free its space.

    That is: half-written and damaged records, records of another version of the arithmetic, left-over states.

    [dim]ctrlib runs gc[/dim]

    [dim]ctrlib runs gc --delete[/dim]
    """
    from ctrlib.store.gc import garbage

    found = open_store(store)
    listed = list(garbage(found, unfinished, delete))
    if listed:
        shown = table("folder", "why", numbers=("MB",))
        for one in listed:
            shown.add_row(one.name, one.reason, f"{one.size / 1e6:.1f}")
        show(shown)
    gone = [one for one in listed if one.deleted] if delete else listed
    done = "freed" if delete else "can be freed" + (" with --delete" if listed else "")
    kept = f"; {len(listed) - len(gone)} in use or whole again, and kept" if len(gone) < len(listed) else ""
    say(f"{found.root}: {len(gone)} folders, {sum(one.size for one in gone) / 1e6:.1f} MB {done}{kept}")


@runs_app.command("same-code")
def runs_same_code(
    commit: Annotated[str, typer.Argument(help="A commit of this project, by which the stored runs were trained.")],
) -> None:
    """Find out whether another commit's code gives the same bits as that on disk, by a small battery of trainings.

    Runs of other code are trained again. After a change that only renames or moves, this command trains every
    architecture, coupling and kind of recipe under both codes; only if all bits agree it says so in
    [bold]ctrlib/store/same_code.json[/bold], to be committed, and the runs count again. Half a minute.

    [dim]ctrlib runs same-code HEAD[/dim]     before you commit a change of names
    """
    from ctrlib.data.folders import project_root
    from ctrlib.store.battery import settle
    from ctrlib.store.code import SAME

    with reporting("training the battery under both codes"):
        differ, parts = settle(commit, project_root())
    if differ:
        say(f"{len(differ)} trainings differ, so the runs of {commit} stay those of other code: {'; '.join(differ)}")
        raise typer.Exit(1)
    written = f"written to {SAME.name}: {', '.join(parts)}" if parts else "both codes have the same digests already"
    say(f"all bits agree; {written}")


@runs_app.command("publish")
def runs_publish(
    profile: Annotated[str, typer.Option(help="Whose runs: a profile of `ctrlib study`.")] = "published",
    only: Annotated[
        str | None,
        typer.Option(help="The number of a notebook: what it alone has goes to a file of its own, named as it is."),
    ] = None,
) -> None:
    """Write the records and measures of a profile to [bold]book/results/PROFILE.parquet[/bold], to be committed.

    With that file in place the pages of the profile are made without training, weights or data. Runs that are not
    trained yet are counted and left out, as are those that another file in the folder holds; the command can be
    repeated as they come.

    [dim]ctrlib runs publish --only 14[/dim]     the runs of notebook 14, to book/results/main_criteo.parquet
    """
    from ctrlib.data.folders import project_root
    from ctrlib.run.plan import plan
    from ctrlib.run.training import publish
    from ctrlib.store.runs import open_store as own_store

    root = project_root()
    jobs = plan(root, profile, [only] if only else [], {})
    jobs = [job for job in jobs if "on_this_machine" not in job.name]  # each reader trains that
    name = jobs[0].name.partition("_")[2] if only else Path(profile).stem
    path = root / "book" / "results" / f"{name}.parquet"
    with reporting("gathering records"):
        found = publish(jobs, own_store(), path)
    if stale := [job.number for job in jobs if not job.is_done()]:
        complain(f"not executed with these runs, so measures of theirs may be missing: {', '.join(stale)}")
    say(
        f"{path.relative_to(root)}: {found['run']:,} runs, {found['measure']:,} measures, {found['data']} data sets; "
        f"{found['missing']:,} runs of the profile are not trained yet"
    )


@runs_app.command("diff")
def runs_diff(
    first: Annotated[Path, typer.Argument(help="A file of records, as `ctrlib runs publish` writes it.")],
    second: Annotated[Path, typer.Argument(help="Another one, or a folder of such files.")],
) -> None:
    """Say what two files of records hold differently: runs and measures in one alone, and how far metrics are apart.

    [dim]ctrlib runs diff old.parquet book/results/published.parquet[/dim]
    """
    from ctrlib.store.compare import differences
    from ctrlib.store.published import Results

    for line in differences(Results(first), Results(second)):
        say(line)
