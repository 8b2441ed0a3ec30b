"""Words and phrases."""

from tljax.toolbox.domains.tables import PHRASES, WORDS, list_sampler
from tljax.toolbox.schema import local_tool


def count_words(text: str) -> int:
    """Count the words of a text.

    Args:
        text: The text.
    """
    return len(text.split())


def count_letter(text: str, letter: str) -> int:
    """Count how often a letter is in a text.

    Args:
        text: The text.
        letter: The letter.
    """
    if len(letter) != 1:
        raise ValueError("letter must be one letter")
    return text.count(letter)


def reverse_text(text: str) -> str:
    """Write a text from back to front.

    Args:
        text: The text.
    """
    return text[::-1]


def replace_word(text: str, old: str, new: str) -> str:
    """Replace a word of a text by another.

    Args:
        text: The text.
        old: The old word.
        new: The new word.
    """
    if old not in text.split():
        raise ValueError(f"no word '{old}' in the text")
    return " ".join(new if word == old else word for word in text.split())


def change_case(text: str, style: str) -> str:
    """Change the case of a text.

    Args:
        text: The text.
        style: The style, upper, lower or title.
    """
    if style not in ("upper", "lower", "title"):
        raise ValueError(f"unknown style '{style}'")
    return {"upper": text.upper, "lower": text.lower, "title": text.title}[style]()


def repeat_text(text: str, times: int) -> str:
    """Repeat a text some times.

    Args:
        text: The text.
        times: How often.
    """
    if not 1 <= times <= 20:
        raise ValueError("times must be between 1 and 20")
    return " ".join([text] * times)


def join_words(words: list[str], separator: str = " ") -> str:
    """Join words to one text.

    Args:
        words: The words.
        separator: What to write between words.
    """
    if not words:
        raise ValueError("words must not be empty")
    return separator.join(words)


def find_word(text: str, word: str) -> int:
    """Find the place of a word in a text.

    Args:
        text: The text.
        word: The word.
    """
    if word not in text.split():
        raise ValueError(f"no word '{word}' in the text")
    return text.split().index(word) + 1


def reverse_words(words: list[str]) -> list[str]:
    """Write words from back to front.

    Args:
        words: The words.
    """
    return words[::-1]


def repeat_word(word: str, times: int) -> str:
    """Repeat a word some times.

    Args:
        word: The word.
        times: How often.
    """
    return repeat_text(word, times)


# Tools that take a phrase and a word of it draw from these phrases, which share the words.
SAT = ("the cat sat on the mat", "the old cat sat on the bed", "a fat cat sat on the sofa")

TOOLS = (
    local_tool(count_words, {"text": PHRASES}),
    local_tool(count_letter, {"text": PHRASES, "letter": tuple("aeinost")}, {"letter": ("", "two letters")}),
    local_tool(reverse_text, {"text": WORDS}),
    local_tool(replace_word, {"text": SAT, "old": ("cat", "sat"), "new": WORDS}, {"old": ("dog", "house")}),
    local_tool(change_case, {"text": PHRASES, "style": ("upper", "lower", "title")}, {"style": ("bold", "italic")}),
    local_tool(repeat_text, {"text": ("hello", "good luck", "well done"), "times": range(2, 5)}, {"times": (0, 1000)}),
    local_tool(join_words, {"words": list_sampler(WORDS, 2, 3), "separator": ("-", "/", "+")}, {"words": ([],)}),
    local_tool(find_word, {"text": SAT, "word": ("cat", "sat")}, {"word": ("dog", "house")}),
    local_tool(reverse_words, {"words": list_sampler(WORDS, 2, 4)}, split="composition"),
    local_tool(repeat_word, {"word": WORDS, "times": range(2, 5)}, {"times": (0, 1000)}, split="composition"),
)
