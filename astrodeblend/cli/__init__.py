"""The command line: thin commands over the public objects.

Commands import what they need when they run, so that ``--help`` is quick. Invalid input ends in one
sentence on stderr and exit code 2.
"""

import sys
import warnings
from functools import partial

import click

from .deblending import deblend, demo, export, models, report
from .options import examples
from .score import benchmark, evaluate, simulate
from .training import finish, train

__all__ = ["main"]


class _Commands(click.Group):
    """Commands in the order in which they were added; errors in one sentence."""

    def list_commands(self, ctx):
        return list(self.commands)

    def invoke(self, ctx):
        with warnings.catch_warnings():
            # bound to stderr as it is now, so that --quiet does not hide warnings
            warnings.showwarning = partial(_show_warning, sys.stderr)
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                click.echo("Aborted!", err=True)
                raise click.exceptions.Exit(130) from None  # what shells have for Ctrl-C
            except BrokenPipeError:  # such as | head: click ends quietly
                raise
            except (ValueError, TypeError, OSError, ImportError) as error:
                if ctx.params["traceback"]:
                    raise
                refusal = click.ClickException(_sentence(error))
                refusal.exit_code = 2
                raise refusal from error


def _sentence(error):
    """Return an error in one line."""
    if isinstance(error, OSError) and error.errno is not None:  # raised by the operating system
        place = "" if error.filename is None else f": {str(error.filename)!r}"
        return f"{error.strerror}{place}"
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(stderr, message, *_, **__):
    click.echo(f"Warning: {' '.join(str(message).split())}", file=stderr)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "astrodeblend demo",
        "astrodeblend deblend image.fits -o out.fits --position 512,488 --plot",
        "astrodeblend deblend --help",
    ),
)
@click.version_option(package_name="astrodeblend", prog_name="astrodeblend")
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
def main(traceback):
    """Deblend galaxies: from an image, return each galaxy alone, and a catalogue."""


for command in (
    demo, deblend, report, models, export, simulate, train, finish, evaluate, benchmark,
):  # fmt: skip
    main.add_command(command)
