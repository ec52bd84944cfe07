"""Texts of many kinds, none of them about a job: how likely a model finds them shows what training cost elsewhere."""

from typing import Final

GENERAL_TEXTS: Final = (
    "The museum opens at nine and closes when the last visitor has left.",
    "Water boils at a lower temperature on a mountain, because the air pressure is lower there.",
    "She put the letters into the drawer, locked it, and went out to feed the horses.",
    "The committee will meet again on Thursday to discuss the budget for the next year.",
    "To make the dough, mix the flour with water and salt, and let it rest for an hour.",
    "The train to the coast leaves from platform four at half past seven.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "If it rains tomorrow, the match will be played next week instead.",
    "He had never seen the sea before, and now he could not look away from it.",
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "A triangle with three equal sides has three equal angles of sixty degrees.",
    "Three plus four is seven, and seven times six is forty-two.",
    "The law was changed in the spring, but the courts did not apply it until autumn.",
    "Take one tablet in the morning with a glass of water, and do not drive afterwards.",
    "Prices rose by two percent last month, mostly because of food and energy.",
    "The old bridge was closed to cars, so the children walked across it to school.",
    "def area(width: float, height: float) -> float:\n    return width * height",
    "for name in sorted(names):\n    print(name, len(names[name]))",
    "SELECT name, price FROM products WHERE price > 10 ORDER BY name;",
    '{"name": "Ann", "age": 31, "languages": ["English", "French"]}',
    "User: What is the capital of France?\nAssistant: The capital of France is Paris.",
    "Question: Which planet is closest to the sun?\nAnswer: Mercury is the closest planet to the sun.",
    "Dear Ms. Lee,\n\nThank you for your letter of the third of May. The parts follow this week.\n\nYours sincerely",
    "El tren sale a las ocho de la mañana y llega por la tarde.",
    "Der Zug fährt um acht Uhr ab und kommt am Nachmittag an.",
    "Le train part à huit heures du matin et arrive dans l'après-midi.",
)
