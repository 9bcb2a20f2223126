"""The registry that every command module declares into."""

from rwkvedit.repl.registry import Registry

REGISTRY = Registry()
command = REGISTRY.command
