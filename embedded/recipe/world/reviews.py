"""Reviews: two aspects of something, each praised or blamed."""

from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from embedded.recipe.world.dialogue import Dialogue
from embedded.recipe.world.words import sentence_case

Sentiment = Literal["positive", "negative", "mixed"]


@dataclass(frozen=True, slots=True)
class Review:
    """Two aspects, whether the writer liked each, and the text."""

    aspects: tuple[str, str]
    liked: tuple[bool, bool]
    text: str

    @property
    def sentiment(self) -> Sentiment:
        """The label: mixed where the writer liked one aspect only."""
        if self.liked[0] != self.liked[1]:
            return "mixed"
        return "positive" if self.liked[0] else "negative"


_PRAISE_AND_BLAME: Final = {
    "waiter": ("friendly helpful polite quick", "rude slow careless grumpy"),
    "pizza": ("tasty crispy delicious perfect", "cold burnt soggy awful"),
    "room": ("clean cosy bright spacious", "dirty noisy tiny dark"),
    "bed": ("soft comfortable warm perfect", "hard broken dirty uncomfortable"),
    "film": ("exciting funny beautiful clever", "boring stupid dull awful"),
    "soup": ("warm tasty fresh delicious", "cold salty awful bland"),
    "service": ("excellent quick friendly great", "terrible slow careless poor"),
    "view": ("stunning beautiful wonderful great", "ugly disappointing blocked poor"),
    "phone": ("fast reliable excellent great", "slow unreliable broken poor"),
    "staff": ("kind helpful friendly polite", "unkind rude lazy grumpy"),
    "music": ("lovely wonderful pleasant great", "horrible loud annoying terrible"),
    "battery": ("strong reliable excellent great", "weak unreliable terrible poor"),
    "coffee": ("fresh strong tasty wonderful", "weak bitter cold awful"),
    "guide": ("clever funny helpful kind", "boring rude late lazy"),
}
_SAME: Final = (
    "The {a} was {x} and the {b} was {y}.",
    "{x} {a}, {y} {b}.",
    "I found the {a} {x}. The {b} was {y} too.",
)
_OPPOSED: Final = (
    "The {a} was {x} but the {b} was {y}.",
    "{x} {a} but {y} {b}.",
    "I found the {a} {x}. However, the {b} was {y}.",
)
_ADVERBS: Final = ("", "very ", "really ", "so ", "quite ")


def _opinion(random: Random, aspect: str, *, liked: bool) -> str:
    return random.choice(_ADVERBS) + random.choice(_PRAISE_AND_BLAME[aspect][0 if liked else 1].split())


def draw(random: Random) -> Review:
    """Draw a review; about three in ten are mixed."""
    a, b = random.sample(list(_PRAISE_AND_BLAME), 2)
    first = random.random() < 0.5
    second = first if random.random() < 0.7 else not first
    form = random.choice(_SAME if first == second else _OPPOSED)
    x, y = _opinion(random, a, liked=first), _opinion(random, b, liked=second)
    return Review((a, b), (first, second), sentence_case(form.format(a=a, b=b, x=x, y=y)))


def _feeling(review: Review) -> str:
    first, second = review.aspects
    if review.sentiment == "mixed":
        good, bad = (first, second) if review.liked[0] else (second, first)
        return f"The writer liked the {good} but not the {bad}."
    return f"The writer {'liked' if review.liked[0] else 'did not like'} the {first} and the {second}."


def ask(random: Random) -> Dialogue:
    """Draw a review to give thanks for, or a review with the question how its writer feels."""
    review = draw(random)
    if random.random() < 0.5:
        question = random.choice(("How does the writer feel?", "Did the writer like it?"))
        return Dialogue(f"{review.text} {question}", _feeling(review))
    return Dialogue(review.text, f"Thank you for your review of the {review.aspects[0]} and the {review.aspects[1]}.")
