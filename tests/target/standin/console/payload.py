"""What a request says, checked as pydantic would: missing and too long values are `invalid_param`."""

import flask


def payload(model, /, **fields):
    """Return the JSON of a request that must have `fields`, by name the most characters, or None for no limit."""
    given = flask.request.get_json()
    if not isinstance(given, dict):
        raise ValueError(f"1 validation error for {model}\n  Input should be a valid dictionary")
    for name, longest in fields.items():
        if given.get(name) is None:
            raise ValueError(f"1 validation error for {model}\n{name}\n  Field required")
        if longest and len(given[name]) > longest:
            raise ValueError(
                f"1 validation error for {model}\n{name}\n  String should have at most {longest} characters"
            )
    return given
