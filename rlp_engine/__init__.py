"""Reward Learning on Policy (Lang, Huang, Li, NAACL 2024, arXiv:2403.19279): the engine under `rlp`."""

__version__ = "0.1.0"
