"""Clustering by rlp_engine.semantics: `python -m benchmarks.speed.ours.clustering JOB`.

With `--prepare FOLDER SETTINGS` it writes the texts of the job instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.speed.clock import Job, one_thread, read_job, report
from benchmarks.speed.entailment import (
    Relation,
    build_encoder,
    build_tokenizer,
    draw_texts,
    made_up_texts,
    real_texts,
)
from rlp_engine.data.records import Prompt
from rlp_engine.semantics.cluster import cluster_prompts
from rlp_engine.semantics.nli import EntailmentEquivalence

Items = list[tuple[Prompt, list[str]]]


def prepare(folder: Path, settings: dict[str, Any]) -> None:
    """Write the texts and a tokenizer made for them."""
    size = settings["instructions"], settings["outputs"]
    real = real_texts(*size)
    texts = real or made_up_texts(*size)
    tokenizer = build_tokenizer([text for instruction, outputs in texts for text in (instruction, *outputs)])
    tokenizer.save_pretrained(folder / "tokenizer")
    work = {"texts": "AlpacaEval outputs" if real else "random words", "rows": draw_texts(settings, texts, tokenizer)}
    (folder / "work.json").write_text(json.dumps(work))


def load(job: Job) -> tuple[Items, PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Items, model, tokenizer, and what is said of the texts."""
    work = job.work
    rows = work["rows"]
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "tokenizer")
    model = build_encoder(job.settings["encoder"], Relation(rows, tokenizer), len(tokenizer)).to(job.device)
    items = [(Prompt(str(i), row["instruction"]), row["outputs"]) for i, row in enumerate(rows)]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for row in rows for text in row["outputs"]]
    about = {
        "texts": work["texts"],
        "mean_output_tokens": sum(lengths) / len(lengths),
        "duplicates": sum(len(row["outputs"]) - len(set(row["outputs"])) for row in rows),
        "meanings": sum(len(set(row["meanings"])) for row in rows),
    }
    return items, model, tokenizer, about


def measure(job: Job) -> None:
    items, model, tokenizer, about = load(job)
    cluster_prompts(items[:1], EntailmentEquivalence(model, tokenizer, microbatch=job.batch))
    model.pairs = 0
    equivalence = EntailmentEquivalence(model, tokenizer, microbatch=job.batch)
    clock = job.clock
    with clock.phase("all"):
        clustering = cluster_prompts(items, equivalence)
    report(job, clock, units=len(items), forwards=model.pairs, clusters=clustering.cluster_ids, **about)


if __name__ == "__main__":
    if sys.argv[1] == "--prepare":
        prepare(Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        one_thread()
        measure(read_job(sys.argv[1]))
