"""Answers drawn from a policy, and the log-probabilities of given answers."""
