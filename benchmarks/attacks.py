"""Attacks on what neuroseg reads and writes: what is broken must be read right or refused in one line, nothing else.

    python -m benchmarks.attacks mutations --files 1000
    python -m benchmarks.attacks kills --rounds 20

`kills` ends commands at random moments (`benchmarks/attacks_kills.py`). `mutations` breaks weights, traces, run.json
and NIR files (`benchmarks/attacks_files.py`). Network files have a benchmark of their own, `benchmarks/fuzz.py`; what
it found stands beside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.attacks_files import attack
from benchmarks.attacks_kills import COMMANDS, in_a_namespace, kill

RESULT = Path(__file__).with_name("results") / "attacks.json"
FUZZ = Path(__file__).with_name("results") / "fuzz.json"
COLUMNS = ("tried", "right", "another_sound_file", "refused_in_one_line", "anything_else")
KILL_COLUMNS = ("tried", "killed_while_running", "right_after_rerun", "anything_else")

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """One command for each kind of attack."""


@app.command()
def mutations(
    files: Annotated[int, typer.Option(min=1, help="Files of each kind.")] = 1000,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULT,
) -> None:
    """Read broken files of weights, traces, settings and NIR."""
    rows = []
    for row in attack(files):
        rows.append(row)
        keep("mutations", rows, out)  # what there is, should it be stopped
    show("Mutations", [*rows, *network_files()], COLUMNS)
    raise typer.Exit(1 if any(row["anything_else"] for row in rows) else 0)


@app.command()
def kills(
    rounds: Annotated[int, typer.Option(min=1, help="Kills of each of the six commands.")] = 20,
    minutes: Annotated[float, typer.Option(min=0, help="No new kill after so long.")] = 40,
    only: Annotated[str, typer.Option(help="Commands whose names hold this; rows of the others are kept.")] = "",
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULT,
) -> None:
    """Kill commands at random moments and start them again."""
    in_a_namespace()
    chosen = [command for command in COMMANDS if only in command.name]
    done = {row["kind"]: row for row in _kept("kills", out)}
    for row in kill(chosen, rounds, minutes):
        done[row.kind] = row.as_json()
        keep("kills", list(done.values()), out)
    show("Kills", list(done.values()), KILL_COLUMNS)
    raise typer.Exit(1 if any(row["anything_else"] for row in done.values()) else 0)


def network_files() -> list[dict[str, Any]]:
    """What `benchmarks/fuzz.py` found, as a row."""
    if not FUZZ.exists():
        return []
    found = json.loads(FUZZ.read_text())
    row = {"kind": "network files (fuzz.json)", "tried": found["files"], "refused_in_one_line": found["refused"]}
    row |= {
        "another_sound_file": found["read"] + found["read_but_not_for_loihi"],
        "anything_else": len(found["failed"]),
    }
    return [row]


def keep(name: str, content: Any, out: Path) -> None:
    """Put one part into the result file; the others stay."""
    found = _read(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**found, name: content}, indent=2) + "\n")


def _read(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text()) if out.exists() else {}


def _kept(name: str, out: Path) -> list[dict[str, Any]]:
    return _read(out).get(name, [])


def show(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    table = Table("kind", *(column.replace("_", " ") for column in columns), title=title)
    for row in rows:
        table.add_row(row["kind"], *(f"{row[column]:,}" if column in row else "" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    app()
