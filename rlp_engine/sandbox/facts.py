"""What the sandbox knows: 94 facts of eight kinds, and how each kind is asked for and restated.

Everything is lower case with spaces around punctuation, so that splitting at spaces gives the words
of a word-level tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMBERS = {
    "animals": ("dog", "cat", "horse", "cow"),
    "fruits": ("apple", "pear", "plum", "lemon"),
    "colours": ("red", "blue", "green", "yellow"),
    "tools": ("hammer", "saw", "drill", "axe"),
    "vehicles": ("car", "bus", "train", "truck"),
    "trees": ("oak", "pine", "elm", "birch"),
}

# kind -> (subject, answer); a subject of two words fills the two places of the kind's topic
SINGLE = {
    "opposite": "hot cold, big small, up down, fast slow, light dark, old young, happy sad, open closed, "
    "full empty, hard soft, rich poor, wet dry, early late, loud quiet",
    "colour": "grass green, snow white, coal black, blood red, sky blue, sun yellow, carrot orange, plum purple, "
    "chocolate brown, ash grey, milk white, tomato red",
    "category": "dog animal, cat animal, apple fruit, pear fruit, oak tree, pine tree, rose flower, tulip flower, "
    "hammer tool, saw tool, piano instrument, violin instrument, car vehicle, bus vehicle",
    "capital": "france paris, italy rome, spain madrid, germany berlin, japan tokyo, egypt cairo, norway oslo, "
    "cuba havana, peru lima, kenya nairobi, austria vienna, poland warsaw",
    "next": "monday tuesday, tuesday wednesday, wednesday thursday, thursday friday, friday saturday, "
    "saturday sunday, sunday monday, january february, february march, march april, april may, may june",
    "sum": "one-one two, one-two three, two-two four, one-four five, two-three five, three-three six, two-four six, "
    "three-four seven, two-five seven, four-four eight, three-five eight, four-five nine, five-five ten, two-six eight",
    "larger": "one-two two, six-three six, four-seven seven, nine-five nine, three-eight eight, ten-seven ten, "
    "two-six six, eight-four eight, five-three five, one-nine nine",
}

# kind -> the noun phrase that names the question, with a place for each word of the subject
TOPICS = {
    "opposite": "the opposite of {}",
    "colour": "the colour of {}",
    "category": "the category of {}",
    "capital": "the capital of {}",
    "next": "what comes after {}",
    "sum": "{} plus {}",
    "larger": "the larger of {} and {}",
    "list": "two {}",
}

# kind -> how a full-sentence answer begins; the value follows
FRAMES = {
    "opposite": "the opposite of {} is",
    "colour": "the colour of {} is",
    "category": "the category of {} is",
    "capital": "the capital of {} is",
    "next": "after {} comes",
    "sum": "{} plus {} is",
    "larger": "the larger of {} and {} is",
    "list": "two {} are",
}

# kind -> six wordings; <topic> is TOPICS[kind], {} the words of the subject
WORDINGS = {
    "opposite": (
        "what is <topic> ?",
        "tell me <topic> .",
        "name <topic> .",
        "which word means <topic> ?",
        "{} has an opposite , which one ?",
        "give me <topic> .",
    ),
    "colour": (
        "what is <topic> ?",
        "tell me <topic> .",
        "name <topic> .",
        "which colour does {} have ?",
        "{} has a colour , which one ?",
        "give me <topic> .",
    ),
    "category": (
        "what is <topic> ?",
        "tell me <topic> .",
        "name <topic> .",
        "which category does {} belong to ?",
        "{} has a category , which one ?",
        "give me <topic> .",
    ),
    "capital": (
        "what is <topic> ?",
        "tell me <topic> .",
        "name <topic> .",
        "which city is <topic> ?",
        "{} has a capital , which one ?",
        "give me <topic> .",
    ),
    "next": (
        "<topic> ?",
        "tell me <topic> .",
        "name the one after {} .",
        "which one follows {} ?",
        "{} is over , what comes then ?",
        "give me the one after {} .",
    ),
    "sum": (
        "what is <topic> ?",
        "tell me <topic> .",
        "compute <topic> .",
        "how much is <topic> ?",
        "add {} and {} .",
        "give me <topic> .",
    ),
    "larger": (
        "what is <topic> ?",
        "tell me <topic> .",
        "name <topic> .",
        "which is larger , {} or {} ?",
        "compare {} and {} , which one is larger ?",
        "give me <topic> .",
    ),
    "list": (
        "what are <topic> ?",
        "tell me <topic> .",
        "name <topic> .",
        "which <topic> do you know ?",
        "list <topic> .",
        "give me <topic> .",
    ),
}

OPENERS = ("", "hello !", "please help me .", "quick question :")
DOUBLE_OPENERS = ("hello ! please help me .", "hello ! quick question :")  # only in U: prompts that nobody demonstrated


@dataclass(frozen=True, slots=True)
class Fact:
    """A question's subject and its right answers. `list` questions have several, the others one."""

    kind: str
    subject: tuple[str, ...]
    answers: frozenset[frozenset[str]]  # the values that an answer must claim, no more and no fewer

    @property
    def fact_id(self) -> str:
        return "-".join((self.kind, *self.subject))

    @property
    def num_values(self) -> int:
        """How many values a whole answer names."""
        return 2 if self.kind == "list" else 1

    @property
    def frame(self) -> str:
        """The words that a full-sentence answer puts before the value."""
        return FRAMES[self.kind].format(*self.subject)

    def instruction(self, wording: int, opener: str) -> str:
        text = WORDINGS[self.kind][wording].replace("<topic>", TOPICS[self.kind]).format(*self.subject)
        return f"{opener} {text}" if opener else text


def all_facts() -> tuple[Fact, ...]:
    """The 94 facts, grouped by kind."""
    facts = []
    for kind, text in SINGLE.items():
        for entry in text.split(", "):
            subject, answer = entry.split(" ")
            facts.append(Fact(kind, tuple(subject.split("-")), frozenset({frozenset({answer})})))
    for plural, members in MEMBERS.items():
        pairs = frozenset(frozenset({a, b}) for a in members for b in members if a != b)
        facts.append(Fact("list", (plural,), pairs))
    return tuple(facts)


FACTS = all_facts()
NUMBERS = frozenset(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
# Every word that can be somebody's answer. Whatever else an answer says holds none of them.
VALUES = NUMBERS | {word for fact in FACTS for answer in fact.answers for word in answer}
