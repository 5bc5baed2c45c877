"""The paper's mathematics: pure functions of tensors and numbers. No I/O, no config, no models; torch only.

Refused shapes are `ValueError`s: only a mistake in our own code can cause one.
"""
