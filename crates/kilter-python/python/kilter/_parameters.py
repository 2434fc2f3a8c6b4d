"""Names of parameters: scikit-learn's, with those of LightGBM accepted; any other is an error that names the nearest."""

from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, Signature, signature


def accepting(aliases):
    """Lets a constructor take its parameters under other names as well; it never sees them. Its signature stays the short one."""

    def decorate(init):
        known = [name for name in signature(init).parameters if name != "self"]

        @wraps(init)
        def construct(self, *placed, **given):
            init(self, *placed, **canonical(type(self).__name__, given, known, aliases))

        return construct

    return decorate


def constructor(defaults, aliases):
    """A constructor that keeps what it is given under these names, for an estimator that has most parameters of another one."""

    def __init__(self, **given):
        for name, value in (defaults | canonical(type(self).__name__, given, list(defaults), aliases)).items():
            setattr(self, name, value)

    parameters = [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, default in defaults.items()]
    __init__.__signature__ = Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *parameters])
    return __init__


def canonical(owner, given, known, aliases):
    """The given parameters under their own names. An unknown name or one parameter given twice is a TypeError."""
    found = {}
    for name, value in given.items():
        own = aliases.get(name, name)
        if own not in known:
            raise TypeError(f"{owner} has no parameter {name!r}{_suggestion(name, known, aliases)}")
        if own in found:
            raise TypeError(f"{owner}: {own!r} is given twice, once under another name")
        found[own] = value
    return found


def _suggestion(name, known, aliases):
    near = get_close_matches(name, [*known, *aliases], n=1, cutoff=0.6)
    if not near:
        return f"; it has {', '.join(known)}"
    own = aliases.get(near[0])
    return f"; did you mean {near[0]!r}" + (f" (another name of {own!r})?" if own else "?")
