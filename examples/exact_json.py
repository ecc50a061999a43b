"""A grader of one's own: the JSON value in a response has to be exactly the gold."""

import json
from typing import Any


def grade(response: str, gold: Any) -> tuple[bool | None, str]:
    """Judge a response by the last block that is fenced as JSON."""
    _, fence, rest = response.rpartition("```json")
    if not fence:
        return None, "no block fenced as json"
    try:
        value = json.loads(rest.partition("```")[0])
    except (ValueError, RecursionError) as error:
        return False, f"not JSON: {error}"
    # As text: 1, 1.0 and true are equal in Python. The order of keys does not count.
    expected, got = (json.dumps(one, sort_keys=True) for one in (gold, value))
    return got == expected, f"expected {expected}, got {got}"
