"""Rules of the scorecard as they are said: ``conditions(all_of("gain low > 0"), any_of("gain high < 0 @0.9"))``."""


def all_of(*said: str) -> dict:
    """Conditions that must all hold, each as ``estimate bound op value``, at 95 % or ``@level``."""
    return {"all_of": [_condition(each) for each in said]}


def any_of(*said: str) -> dict:
    """Conditions of which one must hold."""
    return {"any_of": [_condition(each) for each in said]}


def conditions(pass_when: dict, fail_when: dict | None = None, **least: int) -> dict:
    """A rule of kind ``conditions``; ``least`` are min_seeds and min_n."""
    return {"kind": "conditions", "pass_when": pass_when, **({"fail_when": fail_when} if fail_when else {}), **least}


def _condition(said: str) -> dict:
    words, _, level = said.partition("@")
    estimate, bound, op, value = words.split()
    return {"estimate": estimate, "bound": bound, "op": op, "value": float(value), "level": float(level or 0.95)}
