"""Small jobs on a line of words: repeat, reverse, capitals, lists, quotes, counting, sorting."""

from collections.abc import Callable
from random import Random
from typing import Final

from embedded.recipe.world import words
from embedded.recipe.world.dialogue import Dialogue
from embedded.recipe.world.facts import FACTS, SHOWN_FACTS

Job = Callable[[Random], Dialogue]


def _word_of_a_fact(random: Random) -> str:
    return random.choice(random.choice(FACTS).answer.removesuffix(".").split())


# The base must meet every word after a space, a quote and a bracket.
_WORD_SOURCES: Final[tuple[Callable[[Random], str], ...]] = (
    words.name,
    words.city,
    words.items,
    words.label,
    lambda random: random.choice(FACTS).short,
    _word_of_a_fact,
    lambda random: str(random.randint(0, 99)),
    *[words.word] * 4,
)


def _any_word(random: Random) -> str:
    return random.choice(_WORD_SOURCES)(random)


def _line(random: Random, most: int = 6) -> list[str]:
    return [_any_word(random) for _ in range(random.randint(2, most))]


def _job(wordings: tuple[str, ...], answer: Callable[[list[str]], str], separator: str = " ") -> Job:
    """Return the job that asks for `answer(words)` of a line, whose words are joined by `separator`."""

    def draw(random: Random) -> Dialogue:
        line = _line(random)
        return Dialogue(f"{random.choice(wordings)}: {separator.join(line)}", answer(line))

    return draw


_repeat: Final = _job(("Repeat", "Say", "Repeat after me", "Copy"), " ".join)
_title: Final = _job(("Capitalize each word", "Title case"), lambda line: " ".join(line).title())
_reverse: Final = _job(("Reverse the words", "Reverse the order of the words"), lambda line: " ".join(reversed(line)))
_join: Final = _job(("Join with commas", "Put commas between the words"), ", ".join)
_bullets: Final = _job(
    ("Make a list", "Write as a list"), lambda line: "\n".join(f"- {word}" for word in line), separator=", "
)


def _upper(random: Random) -> Dialogue:
    """Spelling is what this model is worst at, so the words of the facts, and whole sentences, come often."""
    match random.randrange(5):
        case 0:
            line = random.choice(SHOWN_FACTS).answer
        case 1:
            line = " ".join(_line(random))
        case _:
            line = " ".join(_word_of_a_fact(random) for _ in range(random.randint(1, 4)))
    wording = random.choice(("Write in capital letters", "Upper case", "Make it upper case"))
    return Dialogue(f"{wording}: {line}", line.upper())


def _lower(random: Random) -> Dialogue:
    line = " ".join(_line(random, 4))
    return Dialogue(f"{random.choice(('Write in small letters', 'Lower case'))}: {line.upper()}", line.lower())


def _pick(random: Random) -> Dialogue:
    line = _line(random)
    index = random.randrange(len(line))
    place, word = random.choice(
        ((f"word number {index + 1}", line[index]), ("the first word", line[0]), ("the last word", line[-1]))
    )
    answer = f"{words.sentence_case(place)} is {word}."
    return Dialogue(f"What is {place} of: {' '.join(line)}", answer, answer.split(" is ")[1].removesuffix("."))


def _count(random: Random) -> Dialogue:
    line = _line(random)
    wording = random.choice(("Count the words", "How many words"))
    return Dialogue(f"{wording}: {' '.join(line)}", f"There are {len(line)} words.", str(len(line)))


def _sort(random: Random) -> Dialogue:
    numbers = random.sample(range(1, 60), random.randint(3, 4))
    return Dialogue(f"Sort the numbers: {' '.join(map(str, numbers))}", " ".join(map(str, sorted(numbers))))


def _replace(random: Random) -> Dialogue:
    line, new = _line(random), words.word(random)
    old = random.choice(line)
    replaced = " ".join(new if word == old else word for word in line)
    return Dialogue(f"Replace {old} with {new} in: {' '.join(line)}", replaced)


def _remove(random: Random) -> Dialogue:
    line = _line(random)
    removed = random.choice(line)
    return Dialogue(f"Remove {removed} from: {' '.join(line)}", " ".join(word for word in line if word != removed))


def _quote(random: Random) -> Dialogue:
    line = _line(random)
    if random.random() < 0.3:
        return Dialogue(f"Put in quotes: {' '.join(line)}", f'"{" ".join(line)}"')
    wording = random.choice(("Put each word in quotes", "Quote each word"))
    return Dialogue(f"{wording}: {' '.join(line)}", ", ".join(f'"{word}"' for word in line))


def _thrice(random: Random) -> Dialogue:
    word = _any_word(random)
    return Dialogue(f"Say {word} three times.", " ".join([word] * 3))


def _wrap(random: Random) -> Dialogue:
    line = _line(random)
    left, right = random.choice(("()", "[]", "<>", "{}", "**", "''"))
    wrapped = " ".join(f"{left}{word}{right}" for word in line)
    return Dialogue(f"Wrap each word in {left}{right}: {' '.join(line)}", wrapped)


_JOBS: Final[tuple[Job, ...]] = (
    _repeat, _repeat, _upper, _upper, _upper, _upper, _upper, _upper, _upper, _lower, _title, _reverse, _pick, _pick,
    _count, _sort, _join, _replace, _remove, _bullets, _quote, _thrice, _wrap, _wrap,
)  # fmt: skip


def ask(random: Random) -> Dialogue:
    """Draw one job on a line of words."""
    return random.choice(_JOBS)(random)
