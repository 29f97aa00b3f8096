"""A long line for benchmarks: the tests' proxy in a process of its own, with delay and bandwidth.

python -m bench._line TARGET_PORT DELAY_MS BYTES_PER_SECOND     prints its port, serves until it is killed
"""

from __future__ import annotations

import signal
import subprocess
import sys

from bench import _common as common


def main() -> None:
    from tests.support import proxy_pipe
    from tests.support.proxy import Proxy

    proxy_pipe._QUEUE_BYTES = 8 << 20  # what is under way: a stopped consumer must not find all of it at its end
    port, delay_ms, rate = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    with Proxy(("127.0.0.1", port)) as proxy:
        if delay_ms:
            proxy.delay(delay_ms / 1000)
        if rate:
            proxy.limit(int(rate))
        print(proxy.port, flush=True)
        signal.pause()


class Line:
    """Something with a ``port`` and a ``url``, as far away from ``server`` as ``delay_ms`` each way says."""

    def __init__(self, shop: common.Workshop, server: common.Server, delay_ms: float, rate: float) -> None:
        self.name = f"far {server.name}"
        argv = [sys.executable, "-m", "bench._line", str(server.port), str(delay_ms), str(rate)]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=common.ROOT)
        shop.processes.append(self.process)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


if __name__ == "__main__":
    main()
