"""Training: the step loop with its checkpoints, and the four tasks that it runs (SFT, pairs, multi-view, PPO)."""
