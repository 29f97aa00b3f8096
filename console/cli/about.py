"""What is running: version of the package and of Python, and which framing the data path uses."""

from __future__ import annotations

from importlib.util import find_spec


def version_text() -> str:
    """``redis-canal <version>, Python <version>, framing <plain|compiled>``."""
    import platform

    return f"redis-canal {package_version()}, Python {platform.python_version()}, framing {framing()}"


def package_version() -> str:
    """Version of the installed distribution; ``unpackaged`` when run from a bare source tree."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rediscanal")
    except PackageNotFoundError:
        return "unpackaged"


def framing() -> str:
    """``compiled`` when canal.framing is an extension module, else ``plain``."""
    spec = find_spec("canal.framing")
    origin = spec.origin if spec is not None and spec.origin else ".py"
    return "plain" if origin.endswith((".py", ".pyc")) else "compiled"
