"""``redis-canal completion``: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
VARIABLE = "_REDIS_CANAL_COMPLETE"


@click.command(name="completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(tuple(_SHELLS)))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands and options.

    \b
    bash:  redis-canal completion bash > ~/.local/share/bash-completion/completions/redis-canal
    zsh:   redis-canal completion zsh > ~/.zfunc/_redis-canal     (with ~/.zfunc in fpath)
    fish:  redis-canal completion fish > ~/.config/fish/completions/redis-canal.fish
    """
    made = _SHELLS[shell](ctx.find_root().command, {}, "redis-canal", VARIABLE)
    template = made.source_template  # not made.source(): that runs a bash to look at its version
    click.echo(template % made.source_vars(), nl=False)
