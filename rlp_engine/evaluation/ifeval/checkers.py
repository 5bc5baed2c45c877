"""One function for each demand of IFEval: does an answer meet it? (Zhou et al. 2023, arXiv:2311.07911, table 1)

The arguments are those of the data's `kwargs`, by their names there. An answer without any text meets nothing; who
calls sees to that (`judge.follows`). Where the paper leaves open what a word or a sentence is, the docstring says
what counts here. docs/EVALUATION.md lists where that differs from the paper's own program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

WORD = re.compile(r"\w+(?:['’-]\w+)*")  # "don't" and "well-known" are one word
SENTENCE_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s+[^a-z\s]|\s*$)|[。！？।]+)")
NO_SENTENCE_END = re.compile(r"\b(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|[a-z])\.$", re.IGNORECASE)
FENCE = re.compile(r"```(?:json)?(.*?)```", re.DOTALL | re.IGNORECASE)
ONE_OF = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
RELATIONS = ("at least", "less than")


def holds(count: int, relation: str, bound: int) -> bool:
    """`count` "at least" or "less than" `bound`."""
    return count >= bound if relation == "at least" else count < bound


def keywords_existence(answer: str, *, keywords: list[str]) -> bool:
    """Every keyword stands somewhere, in any case, also within a longer word."""
    return all(word.casefold() in answer.casefold() for word in keywords)


def keywords_frequency(answer: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """The keyword stands so often, counted without overlap, also within longer words."""
    return holds(answer.casefold().count(keyword.casefold()), relation, frequency)


def forbidden_words(answer: str, *, forbidden_words: list[str]) -> bool:
    """None of the words stands there as a whole word."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(answer: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """The letter (or sign) stands so often, in either case."""
    return holds(answer.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(answer: str, *, language: str) -> bool:
    """The answer as a whole is in the language (ISO 639-1; zh-cn and zh-tw as langdetect calls them)."""
    return detected_language(answer) == language


def number_sentences(answer: str, *, num_sentences: int, relation: str) -> bool:
    """A sentence ends at . ! ? or … before white space and no small letter, or at the end; `Mr.` and `B.` end none."""
    return holds(count_sentences(answer), relation, num_sentences)


def number_words(answer: str, *, num_words: int, relation: str) -> bool:
    """A word is a run of letters, digits and underscores: "don't" is two, as in the paper's program."""
    return holds(len(re.findall(r"\w+", answer)), relation, num_words)


def number_paragraphs(answer: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs between the separators ***; one of them may not be empty but at the two ends."""
    parts = [part.strip() for part in re.split(r"(?<!\*)\*\*\*(?!\*)", answer)]
    inner = parts[(not parts[0]) : len(parts) - (len(parts) > 1 and not parts[-1])]
    return all(inner) and len(inner) == num_paragraphs


def nth_paragraph_first_word(answer: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """So many paragraphs, parted by empty lines, of which the n-th (from 1) begins with the word, in any case."""
    paragraphs = [part for part in re.split(r"\n\s*\n", answer) if part.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    begins = WORD.search(paragraphs[nth_paragraph - 1])
    return begins is not None and begins.group().casefold() == first_word.casefold()


def number_placeholders(answer: str, *, num_placeholders: int) -> bool:
    """At least so many texts in square brackets, such as [address]."""
    return len(re.findall(r"\[[^\[\]\n]*\]", answer)) >= num_placeholders


def postscript(answer: str, *, postscript_marker: str) -> bool:
    """The marker stands in the answer, in any case and with or without a space between its letters."""
    letters = [re.escape(part) for part in re.findall(r"\w\.?|[^\w\s]+", postscript_marker)]
    return re.search(r"\b" + r"\s?".join(letters), answer, re.IGNORECASE) is not None


def number_bullet_lists(answer: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with * or - and go on; a line that begins with ** is no bullet."""
    bullets = [line for line in answer.splitlines() if re.match(r"\s*(?:\*(?!\*)|-(?!-))\s*\S", line)]
    return len(bullets) == num_bullets


def constrained_response(answer: str) -> bool:
    """One of the three sentences stands there."""
    return any(sentence in answer for sentence in ONE_OF)


def number_highlighted_sections(answer: str, *, num_highlights: int) -> bool:
    """At least so many texts between asterisks on one line, *so* or **so**."""
    return len(re.findall(r"(\*{1,2})(?=[^\s*])[^*\n]*?(?<=[^\s*])\1", answer)) >= num_highlights


def multiple_sections(answer: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings of the splitter and a number, such as SECTION 1 (the data spell it `spliter`)."""
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", answer)) >= num_sections


def json_format(answer: str) -> bool:
    """The whole answer is JSON, bare or in one code fence."""
    text = answer.strip()
    fenced = FENCE.fullmatch(text)
    try:
        json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def title(answer: str) -> bool:
    """A title in double angular brackets, <<so>>, on one line."""
    return any(found.strip(" <>") for found in re.findall(r"<<(.+?)>>", answer))


def two_responses(answer: str) -> bool:
    """Two different answers, parted by six asterisks."""
    parts = [part.strip() for part in answer.split("******")]
    inner = parts[(not parts[0]) : len(parts) - (len(parts) > 1 and not parts[-1])]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def repeat_prompt(answer: str, *, prompt_to_repeat: str) -> bool:
    """The answer begins with the request, word for word, in any case."""
    return answer.strip().casefold().startswith(prompt_to_repeat.strip().casefold())


def end_checker(answer: str, *, end_phrase: str) -> bool:
    """Nothing but quotation marks follows the phrase."""
    return answer.strip().strip('"').casefold().endswith(end_phrase.strip().casefold())


def capital_word_frequency(answer: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """So many words all of whose letters are capitals; `I` and `A` are such words."""
    return holds(sum(word.isupper() for word in WORD.findall(answer)), capital_relation, capital_frequency)


def english_capital(answer: str) -> bool:
    """English, and no small letter."""
    return answer.isupper() and detected_language(answer) == "en"


def english_lowercase(answer: str) -> bool:
    """English, and no capital letter."""
    return answer.islower() and detected_language(answer) == "en"


def no_comma(answer: str) -> bool:
    """No comma."""
    return "," not in answer


def quotation(answer: str) -> bool:
    """The whole answer stands in double quotation marks."""
    text = answer.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def count_sentences(text: str) -> int:
    """See `number_sentences`; text after the last end is a sentence too."""
    count, start = 0, 0
    for end in SENTENCE_END.finditer(text):
        sentence = text[start : end.end()]
        if end.group().startswith(".") and NO_SENTENCE_END.search(sentence.rstrip()):
            continue
        count += bool(WORD.search(sentence))
        start = end.end()
    return count + bool(WORD.search(text[start:]))


def detected_language(text: str) -> str:
    """The language that langdetect finds, the same at every call; "" for a text without letters."""
    import langdetect

    langdetect.DetectorFactory.seed = 0  # it draws at random otherwise
    try:
        return langdetect.detect(text)
    except langdetect.LangDetectException:
        return ""


CHECKERS: dict[str, Callable[..., bool]] = {
    "keywords:existence": keywords_existence,
    "keywords:frequency": keywords_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_words": number_words,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
NEEDS_LANGDETECT = frozenset(
    {"language:response_language", "change_case:english_capital", "change_case:english_lowercase"}
)
