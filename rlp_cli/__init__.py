"""The `rlp` command line: Typer and rich only. Nothing here imports torch, even indirectly."""
