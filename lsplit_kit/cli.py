"""`lsplit demo | host | class | audit | certs | lab | models | calibrate | doctor`: as in Python, from a shell."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two spinning processes on two cores collapse

import typer

from . import __version__
from .errors import LsplitError, UnsupportedOption

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
certs = typer.Typer(no_args_is_help=True, help="Certificates, so that a host knows who is who.")
app.add_typer(certs, name="certs")
PROMPT = "Explain in two sentences why the sky is blue."


def _version(wanted: bool) -> None:
    if wanted:
        print(f"lsplit-kit {__version__}")
        raise typer.Exit()


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and end", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Cut a generative model in three, run its body elsewhere, and see every byte that crosses."""


@app.command()
def demo(
    prompt: Annotated[str, typer.Argument(help="what to ask")] = PROMPT,
    image: Annotated[str | None, typer.Option(help="make this picture instead of an answer")] = None,
    model: Annotated[
        str, typer.Option(help="short name or folder [smollm2; with --image the first pipeline of `lsplit models`]")
    ] = "",
    head: Annotated[int, typer.Option(help="decoder layers before the body")] = 2,
    tail: Annotated[int, typer.Option(help="decoder layers after the body")] = 2,
    tokens: Annotated[int, typer.Option(help="new tokens at most", min=1)] = 64,
    codec: Annotated[str | None, typer.Option(help="codec both ways, of the noise with --image")] = None,
    steps: Annotated[int, typer.Option(help="steps of --image", min=1)] = 20,
    mode: Annotated[str, typer.Option(help="per_step or lockstep, with --image")] = "lockstep",
    seed: Annotated[int, typer.Option(help="seed of --image")] = 0,
    out: Annotated[Path, typer.Option(help="where --image is saved")] = Path("lsplit-demo.png"),
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object and nothing else")] = False,
) -> None:
    """Send a real prompt through a model whose body runs in another process, and account for every byte."""
    write = None if as_json else lambda text: print(text, end="", flush=True)
    if image is None:
        from .demo import report_lines as lines
        from .demo import run_demo

        report = run_demo(prompt, model or "smollm2", head, tail, tokens, codec, write)
    else:
        from .demo_image import image_report_lines as lines
        from .demo_image import run_image_demo
        from .models.names import picture_names

        report = run_image_demo(image, model or picture_names()[0], steps, mode, codec or "int8", seed, out, write)
    print(json.dumps(report) if as_json else "\n".join(lines(report)))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def host(context: typer.Context) -> None:
    """Hold the body of a model and answer steps until Ctrl-C (lsplit host --help lists the options)."""
    from .remote.serve import main as serve

    raise typer.Exit(serve(context.args))


@app.command("class", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def classroom(
    context: typer.Context,
    students: Annotated[int | None, typer.Option(help="how many, named student-01 and so on")] = None,
    names: Annotated[Path | None, typer.Option(help="a text file instead, with one name a line")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="this machine's name or address, as students will write it; several times")
    ] = None,
    days: Annotated[int, typer.Option(help="how long the class is valid")] = 200,
    out: Annotated[Path, typer.Option(help="the class's folder; a class that is there is used again")] = Path("class"),
) -> None:
    """Make a class's certificates, once, and be its host until Ctrl-C; other options are those of `lsplit host`."""
    from .remote.classroom import prepare
    from .remote.serve import main as serve

    print("looking at the options and the model ...", file=sys.stderr, flush=True)  # which loads torch
    ready = prepare(out, students, names, host or (), days, context.args)
    print(ready.says, file=sys.stderr, flush=True)
    raise typer.Exit(serve(ready.arguments))


@certs.command("class")
def certs_class(
    students: Annotated[int | None, typer.Option(help="how many, named student-01 and so on")] = None,
    names: Annotated[Path | None, typer.Option(help="a text file instead, with one name a line")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="the host's name or address, as students will write it; several times")
    ] = None,
    days: Annotated[int, typer.Option(help="how long the class is valid")] = 200,
    out: Annotated[Path, typer.Option(help="folder to write")] = Path("class"),
    overwrite: Annotated[bool, typer.Option(help="replace the class that is there")] = False,
) -> None:
    """Make an authority of the class's own, a certificate for the host, and one file to hand out for each student."""
    from .remote.certificates import make_class, read_roster

    if (students is None) == (names is None):
        raise UnsupportedOption("Give either --students 30 or --names roster.txt.")
    who = students if names is None else read_roster(names)
    made = make_class(out, 0 if who is None else who, hosts=host or (), days=days, overwrite=overwrite)
    print(
        f"{len(made.students)} students, valid until {made.until:%Y-%m-%d}, host names: {', '.join(made.hosts)}\n"
        f"for the host's machine  {made.folder / 'host'}      lsplit host --tls {made.folder / 'host'}\n"
        f"one for each student    {made.folder / 'students'}"
    )


@certs.command("add")
def certs_add(
    folder: Annotated[Path, typer.Argument(help="the class's folder")],
    students: Annotated[int | None, typer.Option(help="how many more, numbered on")] = None,
    names: Annotated[Path | None, typer.Option(help="a text file instead, with one name a line")] = None,
) -> None:
    """Write files for students who join a class; hosts need not be told."""
    from .remote.certificates import read_roster
    from .remote.changes import add_students

    if (students is None) == (names is None):
        raise UnsupportedOption("Give either --students 5 or --names roster.txt.")
    made = add_students(folder, (students or 0) if names is None else read_roster(names))
    print("\n".join(str(folder / "students" / f"{name}.pem") for name in made))


@certs.command("revoke")
def certs_revoke(
    folder: Annotated[Path, typer.Argument(help="the class's folder")],
    names: Annotated[list[str], typer.Argument(help="whose files are worth nothing from now on")],
) -> None:
    """Make hosts of a class refuse the files of these students, and end their connections."""
    from .remote.changes import revoke

    left = revoke(folder, names)
    print(
        f"revoked: {', '.join(dict.fromkeys(names))}; valid files: {len(left)}\n"
        f"A host that runs on this folder knows at once; for another copy {folder / 'host' / 'revoked.pem'} there, "
        "beside its host.pem."
    )


@app.command()
def audit(
    address: Annotated[str, typer.Argument(help="the host, rpyc://ADDRESS:PORT or rpycs://ADDRESS:PORT")],
    tensors: Annotated[bool, typer.Option("--tensors", help="list every tensor with its hash")] = False,
    certificate: Annotated[
        Path | None, typer.Option(help="for an address rpycs://: your bundle [LSPLIT_CERTIFICATE]")
    ] = None,
) -> None:
    """Ask a host which tensors it holds; exit status 1 when they are more than a body. It is the host's own word."""
    from .measure.audit import look

    found = look(address, certificate=certificate)
    if tensors:
        print(found.table.to_string(index=False, max_colwidth=None))
    print(found)
    raise typer.Exit(int(not found.passed))


@app.command()
def lab(folder: Annotated[str, typer.Argument(help="folder that JupyterLab opens")] = ".") -> None:
    """Open JupyterLab on the notebooks, in this very environment."""
    try:
        import jupyterlab  # noqa: F401
    except ImportError:
        print("JupyterLab is missing; install the kit with its notebooks extra.", file=sys.stderr)
        raise typer.Exit(1) from None
    if not os.path.isdir(folder):
        raise UnsupportedOption(f"There is no folder {folder} for JupyterLab to open.")
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", *root])


@app.command()
def models() -> None:
    """List the models that the kit knows by name."""
    from .models.load import known_names

    print("\n".join(known_names()))
    print(
        "... and any causal language model of transformers, a folder or a hub id; any pipeline of diffusers, a folder."
    )


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="short name or folder of a language model")] = "smollm2",
    depth: Annotated[
        list[int] | None, typer.Option(help="layers before the crossing; several times [2 and n - 2]")
    ] = None,
    text: Annotated[list[Path] | None, typer.Option(help="a text file instead of the kit's own texts")] = None,
) -> None:
    """Measure a model's hidden vectors at a depth, for codecs that know them (klt, auto:text)."""
    from .measure.calibrate import calibrate as measure

    for known, path in measure(model, depth, text, progress=True):
        print(f"{known}\n  saved in   {path}")


@app.command()
def doctor() -> None:
    """Check this environment: versions, kernel, sockets, disk, weights."""
    import pandas

    from .course.doctor import doctor as examine

    table = examine()
    with pandas.option_context("display.max_colwidth", None):  # an advice that ends in "..." helps nobody
        print(table.to_string(index=False))
    raise typer.Exit(int((table["status"] == "FAIL").any()))


def main() -> None:
    """Run the command line; a person's mistake gets one sentence and exit status 2."""
    try:
        app()
    except LsplitError as error:
        print(f"lsplit: {error} ({error.page})", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
