"""The words of every question. Change any of them and raise `VERSION`, which stands beside each label and score."""

VERSION = 1

EXPLAIN = (
    "You say what a feature of a language model stands for. You are shown passages of text; the tokens on which the "
    "feature is active are between << and >>, the passages in which it is strongest come first. Look for what the "
    "marked tokens, or the words just before them, have in common and what other text lacks. Answer with one short "
    "phrase of at most 15 words that would let somebody else find such passages. No quotes, no list, no explanation."
)

DETECT = (
    "You are given the description of a feature of a language model and text passages. The feature is active in a "
    "passage if what is described occurs somewhere in it. {ask}"
)

FUZZ = (
    "You are given the description of a feature of a language model and text passages in which some tokens are between "
    "<< and >>. The marks are right if the marked tokens are those that the description is about. {ask}"
)

INTRUDE = (
    "You are given {n} numbered text passages with tokens between << and >>. In all but one of them the same feature "
    "of a language model is active on the marked tokens; in one it is not. Say which passage does not belong to the "
    "others. Answer with its number alone."
)

ONE = {
    "detection": "Say whether it is active in the passage. Answer with Yes or No alone.",
    "fuzzing": "Say whether the marks are right. Answer with Yes or No alone.",
}
MANY = {
    "detection": "For each passage say 1 if it is active and 0 if it is not.",
    "fuzzing": "For each passage say 1 if the marks are right and 0 if they are not.",
}
LIST = " Answer with a list of {n} digits alone, in the order of the passages, such as [{digits}]."


def numbered(passages: list[str]) -> str:
    """Passages one below the other, from 1."""
    return "\n".join(f"{number}. {passage}" for number, passage in enumerate(passages, 1))


def verdicts(method: str, system: str, label: str, passages: list[str]) -> tuple[str, str]:
    """System and user text that ask for a yes or no on each of some passages."""
    if len(passages) == 1:
        return system.format(ask=ONE[method]), f"Description: {label}\nPassage: {passages[0]}"
    digits = ", ".join("10"[place % 2] for place in range(len(passages)))
    ask = MANY[method] + LIST.format(n=len(passages), digits=digits)
    return system.format(ask=ask), f"Description: {label}\nPassages:\n{numbered(passages)}"
