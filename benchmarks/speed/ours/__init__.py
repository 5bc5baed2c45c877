"""The measured side: rlp, in a process of its own."""
