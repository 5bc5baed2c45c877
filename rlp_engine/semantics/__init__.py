"""Which answers mean the same: `cluster.cluster_prompts` over an equivalence from `build.build_equivalence`."""
