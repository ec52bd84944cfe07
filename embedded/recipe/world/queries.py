"""Questions about data: the base repeats what is wanted in plain words, the sql adapter answers in SQL."""

from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal

from embedded.recipe.world import words
from embedded.recipe.world.exchange import Dialogue

Kind = Literal["number", "category", "both", "count", "sort"]
Operator = Literal[">", "<", "="]


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be asked about: its columns, and the values of those that hold categories."""

    name: str
    row: str
    columns: tuple[str, ...]
    numbers: tuple[str, ...]
    categories: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Query:
    """What a question asks for, and the question itself; the paraphrase and the SQL both come from here."""

    kind: Kind
    table: Table
    column: str
    number: str
    operator: Operator
    bound: int
    category: str
    value: str
    descending: bool
    text: str = ""


_TABLES: Final = (
    Table(
        "employees",
        "employee",
        ("name", "salary", "age", "department", "city"),
        ("salary", "age"),
        {"department": words.DEPARTMENTS, "city": words.CITIES},
    ),
    Table(
        "products",
        "product",
        ("name", "price", "stock", "color", "brand"),
        ("price", "stock"),
        {"color": words.COLORS, "brand": words.BRANDS},
    ),
    Table(
        "students",
        "student",
        ("name", "age", "grade", "school", "city"),
        ("age", "grade"),
        {"school": words.SCHOOLS, "city": words.CITIES},
    ),
    Table(
        "books",
        "book",
        ("title", "author", "year", "pages", "genre"),
        ("year", "pages"),
        {"genre": words.GENRES, "author": words.NAMES},
    ),
)
_KINDS: Final[tuple[Kind, ...]] = ("number", "category", "both", "count", "sort")
_OPERATORS: Final[tuple[Operator, ...]] = (">", "<", "=")
_COMPARISONS: Final[dict[Operator, tuple[str, ...]]] = {
    ">": ("above", "over", "greater than", "more than"),
    "<": ("below", "under", "less than"),
    "=": ("equal to", "exactly"),
}


def draw(random: Random) -> Query:
    """Draw a question about one of the tables; one categorical value in five is a made-up word."""
    table = random.choice(_TABLES)
    category = random.choice(list(table.categories))
    known = random.random() > 0.2
    query = Query(
        kind=random.choice(_KINDS),
        table=table,
        column=random.choice(table.columns),
        number=random.choice(table.numbers),
        operator=random.choice(_OPERATORS),
        bound=random.randint(2, 99) * random.choice((1, 1, 10, 100)),
        category=category,
        value=random.choice(table.categories[category]) if known else words.made_up(random).capitalize(),
        descending=random.random() < 0.5,
    )
    return replace(query, text=_wording(query, random))


def _wording(query: Query, random: Random) -> str:
    verb = random.choice(("Show", "List", "Give me", "Find", "I need"))
    comparison = f"{random.choice(_COMPARISONS[query.operator])} {query.bound}"
    wanted = f"{verb} the {query.column} of"
    match query.kind:
        case "number":
            return f"{wanted} {query.table.name} with a {query.number} {comparison}."
        case "category":
            return f"{wanted} {query.table.name} where the {query.category} is {query.value}."
        case "both":
            where = f"the {query.category} is {query.value} and the {query.number} is {comparison}"
            return f"{wanted} {query.table.name} where {where}."
        case "count":
            how_many = random.choice(("How many", "Count how many"))
            return f"{how_many} {query.table.name} have the {query.category} {query.value}?"
        case "sort":
            end = "highest" if query.descending else "lowest"
            return f"{wanted} the {query.table.name} with the {end} {query.number} first."


def paraphrase(query: Query) -> str:
    """Return the base's own answer: the same wish in fixed plain words."""
    compared = f"{query.number} is {_COMPARISONS[query.operator][0]} {query.bound}"
    matched = f"{query.category} is {query.value}"
    wanted = f"You want the {query.column} of each {query.table.row}"
    match query.kind:
        case "number":
            return f"{wanted} where {compared}."
        case "category":
            return f"{wanted} where {matched}."
        case "both":
            return f"{wanted} where {matched} and {compared}."
        case "count":
            return f"You want the number of {query.table.name} where {matched}."
        case "sort":
            direction = "high to low" if query.descending else "low to high"
            return f"{wanted} sorted by {query.number} from {direction}."


_STATEMENTS: Final[dict[Kind, str]] = {
    "number": "SELECT {column} FROM {table} WHERE {compared};",
    "category": "SELECT {column} FROM {table} WHERE {matched};",
    "both": "SELECT {column} FROM {table} WHERE {matched} AND {compared};",
    "count": "SELECT COUNT(*) FROM {table} WHERE {matched};",
    "sort": "SELECT {column} FROM {table} ORDER BY {number}{direction};",
}


def sql(query: Query) -> str:
    """Return the query as one SQL statement."""
    return _STATEMENTS[query.kind].format(
        table=query.table.name,
        column=query.column,
        number=query.number,
        compared=f"{query.number} {query.operator} {query.bound}",
        matched=f"{query.category} = '{query.value}'",
        direction=" DESC" if query.descending else "",
    )


def ask(random: Random) -> Dialogue:
    """Draw a data question with its paraphrase."""
    query = draw(random)
    return Dialogue(query.text, paraphrase(query))
