"""Configuration files: node.yaml, task.yaml and console.yaml. `models` says what may stand in them, `loader` reads
them, `secrets` resolves what they only name."""

from node.config.loader import ConfigProblems, load, load_console, load_node, load_task
from node.config.models import ConsoleConfig, Coordination, Credential, NodeConfig, TaskSpec

__all__ = [
    "ConfigProblems",
    "ConsoleConfig",
    "Coordination",
    "Credential",
    "NodeConfig",
    "TaskSpec",
    "load",
    "load_console",
    "load_node",
    "load_task",
]
