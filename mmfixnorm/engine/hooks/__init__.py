"""Hooks of FixNorm for the Runner of mmengine; each is a line in ``custom_hooks``."""
