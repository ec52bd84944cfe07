"""Questions about data: the base repeats the question in plain words, the sql adapter answers in SQL."""

from random import Random
from typing import Final, Literal, NamedTuple

from embedded.recipe.world import words
from embedded.recipe.world.dialogue import Dialogue

Kind = Literal["number", "category", "both", "count", "sort"]
Operator = Literal[">", "<", "="]


class Table(NamedTuple):
    """A table: its columns, and the values of those that hold categories."""

    name: str
    row: str
    columns: tuple[str, ...]
    numbers: tuple[str, ...]
    categories: dict[str, list[str]]


class Query(NamedTuple):
    """The parts of a question and its text; the paraphrase and the SQL are both made of these parts."""

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
_QUESTIONS: Final[dict[Kind, str]] = {
    "number": "{verb} the {column} of {rows} with a {number} {comparison} {bound}.",
    "category": "{verb} the {column} of {rows} where the {category} is {value}.",
    "both": "{verb} the {column} of {rows} where the {category} is {value} and the {number} is {comparison} {bound}.",
    "count": "{how_many} {rows} have the {category} {value}?",
    "sort": "{verb} the {column} of the {rows} with the {end} {number} first.",
}
_PARAPHRASES: Final[dict[Kind, str]] = {
    "number": "You want the {column} of each {row} where {number} is {comparison} {bound}.",
    "category": "You want the {column} of each {row} where {category} is {value}.",
    "both": "You want the {column} of each {row} where {category} is {value} and {number} is {comparison} {bound}.",
    "count": "You want the number of {rows} where {category} is {value}.",
    "sort": "You want the {column} of each {row} sorted by {number} from {direction}.",
}
_STATEMENTS: Final[dict[Kind, str]] = {
    "number": "SELECT {column} FROM {rows} WHERE {number} {operator} {bound};",
    "category": "SELECT {column} FROM {rows} WHERE {category} = '{value}';",
    "both": "SELECT {column} FROM {rows} WHERE {category} = '{value}' AND {number} {operator} {bound};",
    "count": "SELECT COUNT(*) FROM {rows} WHERE {category} = '{value}';",
    "sort": "SELECT {column} FROM {rows} ORDER BY {number}{order};",
}


def _fill(templates: dict[Kind, str], query: Query, **more: str) -> str:
    return templates[query.kind].format(rows=query.table.name, row=query.table.row, **more, **query._asdict())


def draw(random: Random) -> Query:
    """Draw a question about one of the tables; one categorical value in five is an invented word."""
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
    verb = random.choice(("Show", "List", "Give me", "Find", "I need"))
    comparison = random.choice(_COMPARISONS[query.operator])
    how_many = random.choice(("How many", "Count how many")) if query.kind == "count" else ""
    end = "highest" if query.descending else "lowest"
    text = _fill(_QUESTIONS, query, verb=verb, comparison=comparison, how_many=how_many, end=end)
    return query._replace(text=text)


def paraphrase(query: Query) -> str:
    """Return the base's own answer: the question in fixed plain words."""
    direction = "high to low" if query.descending else "low to high"
    return _fill(_PARAPHRASES, query, comparison=_COMPARISONS[query.operator][0], direction=direction)


def sql(query: Query) -> str:
    """Return the query as one SQL statement."""
    return _fill(_STATEMENTS, query, order=" DESC" if query.descending else "")


def ask(random: Random) -> Dialogue:
    """Draw a data question with its paraphrase."""
    query = draw(random)
    return Dialogue(query.text, paraphrase(query))
