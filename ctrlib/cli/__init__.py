"""The command ``ctrlib``. Heavy modules are imported inside the commands, so that help comes at once."""

import errno
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ctrlib
from ctrlib.cli.data import data_app
from ctrlib.cli.decide import EXTRA, decide, predict
from ctrlib.cli.output import complain
from ctrlib.cli.runs import runs_app
from ctrlib.cli.study import book, grade_pack, pdf, slides, study
from ctrlib.errors import UserError

EXIT_FAILED, EXIT_USER, EXIT_STOPPED = 1, 2, 130


class Commands(TyperGroup):
    """The root command: an error of a command ends as one line on stderr and an exit code.

    2: something the user can mend; 1: the system refused (disk, permission, memory); 130: stopped with Ctrl-C.
    With ``--debug`` the exception is raised as it is.
    """

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (UserError, OSError, MemoryError, KeyboardInterrupt) as error:
            if (ctx.obj or {}).get("debug") or getattr(error, "errno", None) == errno.EPIPE:
                raise
            line, code = _last_line(error)
            complain(line)
            raise typer.Exit(code) from None


def _last_line(error: BaseException) -> tuple[str, int]:
    """What to print for an exception, and the exit code."""
    if isinstance(error, UserError):
        return f"error: {error}", EXIT_USER
    if isinstance(error, KeyboardInterrupt):
        return "stopped; run the same command again to go on", EXIT_STOPPED
    if isinstance(error, MemoryError):
        return "error: not enough memory; try fewer rows (data prepare: --rows)", EXIT_FAILED
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.ENOSPC:
        reason = "no space left on the disk; free some and run the same command again (earlier results are kept)"
    return f"error: {error.filename}: {reason}" if error.filename else f"error: {reason}", EXIT_FAILED


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Does mutual learning help click-through-rate models? Data, studies and run records of this project.",
)
for command in (study, book, pdf, slides, grade_pack):
    app.command(command.__name__.replace("_", "-"))(command)
app.command("decide", context_settings=EXTRA)(decide)
app.command("predict")(predict)
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")


def _show_version(asked: bool) -> None:
    if asked:
        print("ctrlib", ctrlib.__version__)
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error (any position).")] = False,
) -> None:
    ctx.obj = {"debug": debug or bool((ctx.obj or {}).get("debug"))}


def main(argv: list[str] | None = None) -> None:
    """Entry point: ``--debug`` may stand anywhere before a ``--``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 lacks the frames of tables
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    arguments = [a for place, a in enumerate(arguments) if a != "--debug" or place > end]
    app(args=arguments, prog_name="ctrlib", obj={"debug": debug})
