"""Speed and memory against the peers: ratios taken in one run on the same models, prompts, lengths and precision.

    python -m benchmarks.speed sampling      10 answers a prompt            transformers generate
    python -m benchmarks.speed ppo           PPO updates                    TRL's experimental PPOTrainer
    python -m benchmarks.speed reward        reward training                TRL's RewardTrainer
    python -m benchmarks.speed sft           supervised fine-tuning         TRL's SFTTrainer
    python -m benchmarks.speed clustering    clusters by entailment         the naive walk
    python -m benchmarks.speed startup       help of every command          trl --help
    python -m benchmarks.speed all           all of these
    python -m benchmarks.speed table         the tables of docs/BENCHMARKS.md from the JSON lines

Every measurement is a process of its own, on one thread: it loads the models, warms up, and then counts the
CPU-seconds of the work alone (on CUDA: wall seconds, the device waited for) and the process's peak memory. First
each side looks for its best batch size (role "search"), then both are measured in turn, ours, peer, ours, peer (role
"pair"); a ratio is taken within a pair. The models have random weights, written once a case for both sides, with EOS
made likely enough that answers end (build.py); prompts and texts are drawn with a fixed seed (workload.py). What
issue 4 asked for, and all settings, stand in shapes.py.
"""
