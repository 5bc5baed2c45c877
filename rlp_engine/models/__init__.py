"""Policies, reward and value models: loading, adapters, saving. Inside each is a plain transformers class."""
