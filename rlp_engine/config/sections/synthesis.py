"""[synthesize]: which answers mean the same, and who judges pairs in the RLAIF ablation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlp_engine.config.sections.base import SAFE, Positive, Section, Share


class EquivalenceConfig(Section):
    """When two answers mean the same (METHOD 3.1, 3.2)."""

    kind: Literal["nli", "embedding", "exact-match", "sandbox"] = Field("nli", description="NLI model both ways [P]; cosine of sentence embeddings; equal after normalisation; the sandbox's exact meaning")
    model: str = Field("microsoft/deberta-large-mnli", description="folder or hub id of the NLI model or the sentence encoder [P: Deberta-large]")
    revision: str = Field("main", description="revision of a hub model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the model's weights and forward pass; half precision is for CUDA, and may turn a label that is near a tie")
    rule: Literal["strict", "lax", "non-contradiction"] = Field("strict", description="strict: both directions entail")
    min_cosine: Share = Field(0.8, description="threshold of `embedding`")
    microbatch: Positive = Field(32, description="texts or pairs per forward pass", json_schema_extra=SAFE)
    question_tokens: Positive = Field(128, description="the question's share of an NLI text, tokens")
    max_length: Positive = Field(512, description="tokens of an NLI pair or an embedded text")


RLAIF_PROMPT = """\
Compare two responses to the same instruction and say which one follows it better: write 1 for the first response or 2 \
for the second, and nothing else.

Instruction:
{instruction}

Response 1:
{response_1}

Response 2:
{response_2}"""


class RlaifConfig(Section):
    """How the policy, or a server, is asked which of two of the policy's answers is better (METHOD 3.5, 7.37)."""

    engine: Literal["policy", "server"] = Field("policy", description="who judges: the policy that was sampled [P], by `prompt`; or `annotators`, at the servers of [judge]")
    annotators: list[str] = Field(["rlaif"], min_length=1, description="engine = `server`: names or paths as in judge.annotators; always asked in both orders")
    prompt: str = Field(RLAIF_PROMPT, description="what it is asked, put into model.template as an instruction; {instruction}, {response_1} and {response_2} stand for the texts [we]")
    labels: list[str] = Field(["1", "2"], min_length=2, max_length=2, description="what it may answer: the response shown first, or second; compared by log-probability, in both orders")
    max_length: Positive = Field(1024, description="tokens of prompt and label; the longer response loses its end first")
    microbatch: Positive = Field(16, description="rows per forward pass; a comparison is four (two orders, two labels)", json_schema_extra=SAFE)

    @model_validator(mode="after")
    def _two_labels_and_three_places(self) -> RlaifConfig:
        missing = [name for name in ("{instruction}", "{response_1}", "{response_2}") if name not in self.prompt]
        if missing:
            raise ValueError(f"prompt lacks {', '.join(missing)}")
        if not all(label.strip() for label in self.labels) or self.labels[0] == self.labels[1]:
            raise ValueError(f"labels must be two different texts, got {self.labels}")
        return self


class SynthesizeConfig(Section):
    """Clusters -> confidence -> synthetic pairs (METHOD 3.4)."""

    min_confidence: Share = Field(0.5, description="gamma; accepted when confidence >= gamma [P]")
    equivalence: EquivalenceConfig = EquivalenceConfig()
    rlaif: RlaifConfig = RlaifConfig()
