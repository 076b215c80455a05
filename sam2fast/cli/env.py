"""``sam2fast env``: what a report of a bug needs to say about the machine."""

import json
from collections.abc import Iterator
from typing import Any

import click


@click.command()
@click.option(
    "--check", is_flag=True, help="Also segment a picture and track three frames with the model in the package."
)
@click.option("--device", default="auto", show_default=True, help="For --check: auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def env(ctx: click.Context, check: bool, device: str, as_json: bool) -> None:
    """Print what a report of a bug needs: versions, processor, GPUs, what computes each op, settings, checkpoints.

    Tokens, passwords and keys are not shown, and the home directory is ~. What cannot be found out has its error in its
    place. The exit code is 1 if --check fails.
    """
    from sam2fast.environment import describe

    found = describe(check, device)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for name, facts in found.items():
            click.echo(name)
            for line in _lines(facts, 1):
                click.echo(line)
    ctx.exit(1 if "error" in found.get("check", {}) else 0)


def _lines(facts: dict[str, Any], depth: int) -> Iterator[str]:
    for key, value in facts.items():
        indent = "  " * depth
        if isinstance(value, dict):
            yield f"{indent}{key}"
            yield from _lines(value, depth + 1)
        elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
            for number, entry in enumerate(value):
                yield f"{indent}{key} {number}"
                yield from _lines(entry, depth + 1)
        else:
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{indent}{key}: {_word(shown)}"


def _word(value: Any) -> str:
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
