"""Win-rates, judges, reward accuracy and drift."""
