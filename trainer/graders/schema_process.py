"""The process that checks texts against JSON schemas: ``python -m trainer.graders.schema_process``."""

from typing import Any, Final

from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from adapters import strict_json
from adapters.processes.fork_pool import serve_forks

_SHOWN: Final = 300


def check(question: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``CheckedSchema``."""
    schema, text = question["schema"], question["text"]
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
        if text is None:
            return {}
        error = best_match(kind(schema, registry=Registry()).iter_errors(strict_json.parse(text.encode())))
    except SchemaError as wrong:
        return {"invalid": _at(wrong)}
    except Unresolvable as unknown:
        return {"invalid": f"$ref {unknown.ref!r:.100} is not in the schema"}
    except RecursionError:
        return {"invalid": "the schema, or the text, is nested too deeply"}
    except ValueError as malformed:
        return {"fault": f"the answer is not JSON: {malformed}"[:_SHOWN]}
    return {} if error is None else {"fault": _at(error)}


def _at(error: ValidationError | SchemaError) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
    return f"{path.lstrip('.')}: {error.message}"[:_SHOWN] if path else error.message[:_SHOWN]


if __name__ == "__main__":
    serve_forks(lambda _setup: check)
