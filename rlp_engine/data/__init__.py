"""Typed rows and what makes them: readers, templates, batching."""
