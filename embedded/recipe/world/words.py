"""Word pools typed by hand, and invented words that the base has to copy instead of remember."""

from random import Random
from typing import Final


def listed(text: str) -> list[str]:
    """Return the words of `text`; running text is easier to read and to change than a list."""
    return text.split()


NAMES: Final = listed(
    """
    Anna Ben Clara David Emma Felix Greta Hugo Irene Jonas Karin Leo Marta Nora Oscar Paula Quentin Rosa
    Simon Tara Victor Wanda Yusuf Zoe Alice Bruno Carmen Diego Elena Frank Gina Henry Ines Jack Kira
    Luis Maya Nils Olga Peter Rita Sam Tina Umar Vera Will Xenia Yara Adam Bella Cora Dan Eric Fiona
    George Hana Ivan Julia Kevin Lara Mike Nina Omar Petra Ralf Sara Tom Ugo Viola Walter Ada Boris
    Celia Dora Edgar Flora Gavin Helen Igor Jane Karl Lena Mario Nelly Otto Pia Ruth Stefan Theo
    Ulla Vince Wendy Alex Beth Carl Daria Emil Faye Gus Holly Ian Judy Ken Lucy Max Nick Olive Paul
    Roy Sonia Tim Uma Val Abel Boyd Cleo Dina Elsa Fred Gwen
    """
)
CITIES: Final = listed(
    """
    Oslo Paris Rome Berlin Madrid Lisbon Vienna Prague Dublin Athens Warsaw Cairo Tokyo Lima Quito
    Boston Denver Chicago Seattle Austin Milan Porto Lyon Geneva Zurich Munich Hamburg Bergen Malmo
    Turku Riga Vilnius Sofia Zagreb Split Naples Turin Seville Bilbao Nice Lille Ghent Bruges Delhi
    Mumbai Dakar Accra Nairobi Perth Sydney Toronto Havana Bogota Santiago Kyoto Osaka Seoul Hanoi
    Manila Dallas Miami
    """
)
COLORS: Final = listed("red blue green yellow black white brown orange pink purple grey silver golden")
ITEMS: Final = listed(
    """
    lamp chair table book cup plate shirt jacket pen bag box clock mirror carpet bottle candle pillow
    blanket ball kite drum guitar camera phone keyboard mouse screen cable ladder hammer bucket
    basket umbrella hat scarf belt sofa desk shelf vase mug spoon notebook lantern rope tent bell
    ring helmet wheel brush towel curtain stool
    """
)
DAYS: Final = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS: Final = listed("January February March April May June July August September October November December")
JOBS: Final = listed(
    """
    teacher nurse doctor baker pilot farmer lawyer painter writer singer driver cook plumber dentist
    gardener tailor waiter builder sailor judge chemist librarian carpenter florist
    """
)
PETS: Final = listed("cat dog parrot rabbit hamster turtle horse goat snake goldfish pony lizard")
FOODS: Final = listed(
    "pizza soup rice bread pasta salad cheese cake curry fish sushi tacos noodles apples plums waffles"
)
HOBBIES: Final = listed(
    "chess tennis painting swimming fishing reading cooking dancing running hiking sailing knitting"
)
DEPARTMENTS: Final = listed("sales marketing support finance research")
BRANDS: Final = listed("Acme Nordic Solex Vertex Luma")
SCHOOLS: Final = listed("Hilltop Lakeside Central Westwood")
GENRES: Final = listed("crime poetry history travel fantasy")
WORDS: Final = listed(
    """
    apple river stone cloud garden window paper winter summer bridge forest mountain music dinner coffee
    sugar butter pepper orange lemon silver copper iron water fire wind storm rain snow light shadow
    morning evening night road street house door floor wall roof tree leaf flower grass field farm
    horse sheep wolf bear eagle shark tiger lion mouse train boat plane truck bicycle engine wheel
    metal glass wood cotton wool leather plastic island ocean beach sand desert valley hill lake
    spring autumn planet star moon sun comet rocket robot magnet battery circuit signal letter
    number story poem song dance game puzzle prize medal crown castle tower market shop office
    school college museum theatre doctor farmer pilot baker king queen prince friend child mother
    father sister brother uncle quiet loud fast slow happy sad big small hot cold new old young
    bright dark heavy soft hard sharp round flat deep high low long short
    """
)

_ONSETS: Final = listed("b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t tr v w z")
_VOWELS: Final = listed("a e i o u ai ea oo ia")
_CODAS: Final = ["", "", "n", "r", "l", "s", "t", "m", "nd", "rk", "x", "ck"]


def made_up(random: Random) -> str:
    """Return an invented word of one to three syllables, so that the base has to copy it."""
    syllables = random.choice((1, 2, 2, 3))
    return "".join(random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS) for _ in range(syllables))


def name(random: Random, p_made_up: float = 0.25) -> str:
    """Return a first name; with probability `p_made_up` an invented one."""
    return made_up(random).capitalize() if random.random() < p_made_up else random.choice(NAMES)


def city(random: Random, p_made_up: float = 0.25) -> str:
    """Return a city; with probability `p_made_up` an invented one."""
    return made_up(random).capitalize() if random.random() < p_made_up else random.choice(CITIES)


def word(random: Random, p_made_up: float = 0.2) -> str:
    """Return a lower-case word; with probability `p_made_up` an invented one."""
    return made_up(random) if random.random() < p_made_up else random.choice(WORDS)


def label(random: Random) -> str:
    """Return a value for a column of categories: a brand, a genre, a color, …"""
    return random.choice(random.choice((BRANDS, SCHOOLS, DEPARTMENTS, GENRES, COLORS, DAYS)))


def items(random: Random) -> str:
    """Return the plural of an item."""
    return plural(random.choice(ITEMS), 2)


def plural(noun: str, number: int) -> str:
    """Return `noun` in the form that goes with `number`."""
    if number == 1:
        return noun
    if noun.endswith("f"):
        return noun[:-1] + "ves"
    return noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")


def sentence_case(text: str) -> str:
    """Raise the first letter only; `str.capitalize` would lower all the others."""
    return text[0].upper() + text[1:]
