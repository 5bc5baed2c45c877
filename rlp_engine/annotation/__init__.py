"""Pairwise annotators behind a server: prompts, parsers, the cache of their answers, and the judge made of them."""
