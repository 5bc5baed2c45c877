"""`python -m rlp_cli` is `rlp`: how a study starts its runs, with the interpreter that it runs under itself."""

from rlp_cli.app import main

main()
