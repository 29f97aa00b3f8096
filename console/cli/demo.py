"""``redis-canal demo``: two datacenters on this machine, written to on both sides, equal in the end."""

from __future__ import annotations

import sys

import click


@click.command(name="demo", short_help="Show two datacenters on this machine writing both ways.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=86_400),
    metavar="N",
    help="Write for N seconds (default: until Ctrl-C on a terminal, 20 elsewhere).",
)
@click.option(
    "--port",
    type=click.IntRange(1024, 65_531),
    metavar="BASE",
    help="Use the ports BASE to BASE+4 (default: free ports).",
)
@click.option(
    "--zookeeper",
    metavar="HOSTS",
    help="Coordinate by this ensemble (HOST:PORT,…), in a tree that is removed again; default: a file each.",
)
def command(seconds: float | None, port: int | None, zookeeper: str | None) -> int:
    """Start two empty servers as two datacenters, a node in each, link them both ways, and write on both sides.

    The web console is open on it while it runs; its address is printed.

    In the end the writers stop, both sides are compared key by key, and the exit code is 0 only if they are equal.
    Needs no root; nothing that it starts outlives it, and it writes nowhere outside its temporary directory.
    """
    import asyncio

    from console.demo.scenario import run_demo
    from console.demo.show import open_screen

    if seconds is None and not sys.stdout.isatty():
        seconds = 20.0
    screen = open_screen()
    try:
        equal = asyncio.run(run_demo(screen, seconds, port, zookeeper))
    except asyncio.CancelledError:
        return 130
    finally:
        screen.close()
    return 0 if equal else 1
