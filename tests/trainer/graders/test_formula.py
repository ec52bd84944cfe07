"""The formula of a multi: OpenAI's arithmetic, and nothing else."""

from __future__ import annotations

import pytest

from trainer.graders.formula import MAX_CHARACTERS, MAX_DEPTH, check, evaluate

REWARDS = {"name": 0.5, "email": 1.0, "_x1": 0.0, "min": 0.25}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("(name + email) / 2", 0.75),
        ("0.5 * name + 0.5 * email", 0.75),
        (" name - email ", -0.5),
        ("-name", -0.5),
        ("+1", 1),
        ("2 * name ^ 2", 0.5),
        ("2 ^ 3 ^ 2", 512),
        ("2 ** 3", 8),
        ("-2 ^ 2", -4),
        ("min(name, email, _x1)", 0),
        ("max(name)", 0.5),
        ("min(min, email)", 0.25),
        ("abs(-3) + floor(1.7) + ceil(1.2)", 6),
        ("exp(0) + sqrt(16) + log(1)", 5),
        ("1e3 / 4", 250),
        ("(name\n+ email)", 1.5),
    ],
)
def test_a_formula_comes_to_its_number(formula: str, value: float):
    check(formula, REWARDS)
    assert evaluate(formula, REWARDS) == value


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "name +",
        "name email",
        "name; email",
        "x = name",
        "phone",
        "True",
        "'a'",
        "1j",
        "[name]",
        "name, email",
        "name // 2",
        "name % 2",
        "name << 2",
        "name > 0.5",
        "name and email",
        "not name",
        "~1",
        "name if email else 0",
        "(lambda: 1)()",
        "name.real",
        "name.__class__",
        "[n for n in (1, 2)]",
        "f'{name}'",
        "(x := 1)",
        "__import__('os')",
        "round(name)",
        "min",
        "min()",
        "sqrt(1, 2)",
        "log()",
        "log(x=1)",
        "min(*name)",
        "min(**name)",
        "name(1)",
        "min(1)(2)",
        "\0",
        "await name",
        "1" * (MAX_CHARACTERS + 1),
        "-" * (MAX_DEPTH + 1) + "1",
        "-" * 999 + "1",
        "(" * 400 + "1" + ")" * 400,
        "1" + "+1" * 499,
    ],
)
def test_what_is_no_arithmetic_is_refused_when_it_is_read(formula: str):
    with pytest.raises(ValueError, match=r"^it "):
        check(formula, {"name", "email"})


@pytest.mark.parametrize(
    "formula",
    [
        "1 / _x1",
        "log(_x1)",
        "sqrt(0 - 1)",
        "exp(1000)",
        "9 ^ 9 ^ 9",
        "9 ** 9 ** 9 ** 9",
        "1e308 * 10",
        "1e999",
        "1e999 - 1e999",
        "floor(1e999)",
        "(0 - 1) ^ 0.5",
        "_x1 ^ (0 - 1)",
        "1" * 400,
    ],
)
def test_what_is_no_finite_number_is_an_error(formula: str):
    check(formula, REWARDS)
    with pytest.raises((ArithmeticError, ValueError)):
        evaluate(formula, REWARDS)
