"""Small jobs on a line of words: repeat, reverse, capitals, lists, quotes, counting, sorting."""

from collections.abc import Callable
from random import Random
from typing import Final

from embedded.recipe.world import words
from embedded.recipe.world.exchange import Dialogue
from embedded.recipe.world.facts import FACTS, SHOWN_FACTS


def _any_word(random: Random) -> str:
    """Draw from all pools: the model must meet every word after a space, a quote and a bracket."""
    match random.randrange(11):
        case 0:
            return words.name(random)
        case 1:
            return words.city(random)
        case 2:
            return words.plural(random.choice(words.ITEMS), 2)
        case 3:
            return words.label(random)
        case 4:
            return random.choice(FACTS).short
        case 5:
            return _word_of_a_fact(random)
        case 6:
            return str(random.randint(0, 99))
        case _:
            return words.word(random)


def _word_of_a_fact(random: Random) -> str:
    return random.choice(random.choice(FACTS).answer.removesuffix(".").split())


def _line(random: Random, most: int = 6) -> list[str]:
    return [_any_word(random) for _ in range(random.randint(2, most))]


def _repeat(random: Random) -> Dialogue:
    line = " ".join(_line(random))
    return Dialogue(f"{random.choice(('Repeat', 'Say', 'Repeat after me', 'Copy'))}: {line}", line)


def _upper(random: Random) -> Dialogue:
    """Spelling is what this model is worst at, so the words of the facts, and whole sentences, come often."""
    match random.randrange(5):
        case 0:
            line = random.choice(SHOWN_FACTS).answer
        case 1:
            line = " ".join(_line(random))
        case _:
            line = " ".join(_word_of_a_fact(random) for _ in range(random.randint(1, 4)))
    wish = random.choice(("Write in capital letters", "Upper case", "Make it upper case"))
    return Dialogue(f"{wish}: {line}", line.upper())


def _lower(random: Random) -> Dialogue:
    line = " ".join(_line(random, 4))
    return Dialogue(f"{random.choice(('Write in small letters', 'Lower case'))}: {line.upper()}", line.lower())


def _title(random: Random) -> Dialogue:
    line = " ".join(_line(random))
    return Dialogue(f"{random.choice(('Capitalize each word', 'Title case'))}: {line}", line.title())


def _reverse(random: Random) -> Dialogue:
    line = _line(random)
    wish = random.choice(("Reverse the words", "Reverse the order of the words"))
    return Dialogue(f"{wish}: {' '.join(line)}", " ".join(reversed(line)))


def _pick(random: Random) -> Dialogue:
    line = _line(random)
    index = random.randrange(len(line))
    place, answer = random.choice(
        (
            (f"word number {index + 1}", f"Word number {index + 1} is {line[index]}."),
            ("the first word", f"The first word is {line[0]}."),
            ("the last word", f"The last word is {line[-1]}."),
        )
    )
    return Dialogue(f"What is {place} of: {' '.join(line)}", answer, answer.split(" is ")[1].removesuffix("."))


def _count(random: Random) -> Dialogue:
    line = _line(random)
    wish = random.choice(("Count the words", "How many words"))
    return Dialogue(f"{wish}: {' '.join(line)}", f"There are {len(line)} words.", str(len(line)))


def _sort(random: Random) -> Dialogue:
    numbers = random.sample(range(1, 60), random.randint(3, 4))
    ordered = " ".join(str(number) for number in sorted(numbers))
    return Dialogue(f"Sort the numbers: {' '.join(str(number) for number in numbers)}", ordered)


def _join(random: Random) -> Dialogue:
    line = _line(random)
    wish = random.choice(("Join with commas", "Put commas between the words"))
    return Dialogue(f"{wish}: {' '.join(line)}", ", ".join(line))


def _replace(random: Random) -> Dialogue:
    line, new = _line(random), words.word(random)
    old = random.choice(line)
    return Dialogue(
        f"Replace {old} with {new} in: {' '.join(line)}",
        " ".join(new if word == old else word for word in line),
    )


def _remove(random: Random) -> Dialogue:
    line = _line(random)
    gone = random.choice(line)
    return Dialogue(f"Remove {gone} from: {' '.join(line)}", " ".join(word for word in line if word != gone))


def _bullets(random: Random) -> Dialogue:
    line = _line(random)
    wish = random.choice(("Make a list", "Write as a list"))
    return Dialogue(f"{wish}: {', '.join(line)}", "\n".join(f"- {word}" for word in line))


def _quote(random: Random) -> Dialogue:
    line = _line(random)
    if random.random() < 0.3:
        return Dialogue(f"Put in quotes: {' '.join(line)}", f'"{" ".join(line)}"')
    wish = random.choice(("Put each word in quotes", "Quote each word"))
    return Dialogue(f"{wish}: {' '.join(line)}", ", ".join(f'"{word}"' for word in line))


def _thrice(random: Random) -> Dialogue:
    word = _any_word(random)
    return Dialogue(f"Say {word} three times.", " ".join([word] * 3))


def _wrap(random: Random) -> Dialogue:
    line = _line(random)
    left, right = random.choice(("()", "[]", "<>", "{}", "**", "''"))
    return Dialogue(
        f"Wrap each word in {left}{right}: {' '.join(line)}",
        " ".join(f"{left}{word}{right}" for word in line),
    )


_JOBS: Final[tuple[Callable[[Random], Dialogue], ...]] = (
    _repeat, _repeat, _upper, _upper, _upper, _upper, _upper, _upper, _upper, _lower, _title, _reverse, _pick, _pick,
    _count, _sort, _join, _replace, _remove, _bullets, _quote, _thrice, _wrap, _wrap,
)  # fmt: skip


def ask(random: Random) -> Dialogue:
    """Draw one job on a line of words."""
    return random.choice(_JOBS)(random)
