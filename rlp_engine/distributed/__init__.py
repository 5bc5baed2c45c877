"""One run in many processes: who is who, how they talk, and DeepSpeed's engine behind the optimizer."""
