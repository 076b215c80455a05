"""``sam2fast --install-completion``: installs click's scripts that complete commands and options in the shell."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from sam2fast.cli.command_files import write_atomically
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.io.atomic import expanded

# Path of the script below the home directory, by shell. bash-completion and fish search the folders of these paths.
SCRIPTS = {
    "bash": ".local/share/bash-completion/completions/{}",
    "zsh": ".zfunc/_{}",
    "fish": ".config/fish/completions/{}.fish",
}
ZSH_LINE = "fpath+=~/.zfunc; autoload -Uz compinit; compinit"


def install_completion(ctx: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    """Writes the script for the shell in ``$SHELL``, and ends the command. Callback of the option."""
    if not is_asked:
        return
    shell, name = Path(os.environ.get("SHELL", "")).name, "sam2fast"
    if shell not in SCRIPTS:
        raise UserError(f"$SHELL is {shell or 'not set'}; completion is for {', '.join(SCRIPTS)}")
    completer = get_completion_class(shell)
    assert completer is not None
    file = expanded("~") / SCRIPTS[shell].format(name)
    with as_user_error(OSError):  # only commands print errors; this option is parsed before any command
        file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, completer(ctx.command, {}, name, f"_{name}_COMPLETE".upper()).source().encode())
    click.echo(f"written to {click.format_filename(file)}; new shells use it")
    if shell == "zsh":
        click.echo(f"if ~/.zshrc does not have it yet, add this line: {ZSH_LINE}")
    elif shell == "bash":
        click.echo("completion needs the package bash-completion")
    ctx.exit()
