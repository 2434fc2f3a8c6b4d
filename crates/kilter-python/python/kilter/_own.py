"""Losses and metrics that are functions of arrays, as LightGBM's scikit-learn interface has them."""

from inspect import Parameter, signature

import numpy as np


def objective(function):
    """What the native learner calls: gradients and hessians of all rows, weights counted."""
    told = _told(function)

    def derivatives(y, margins, weight, group):
        gradient, hessian = _pair(function(*(y, margins, weight, group)[:told]), len(y))
        if told < 3 and weight is not None:
            gradient, hessian = gradient * weight, hessian * weight
        return gradient, hessian

    return derivatives


def metric(function):
    """What the native learner calls: the metric's name, its value, and whether higher is better."""
    told = _told(function)

    def measure(y, predicted, weight, group):
        answer = function(*(y, predicted, weight, group)[:told])
        if not (isinstance(answer, tuple) and len(answer) == 3 and isinstance(answer[0], str)):
            raise ValueError(f"eval_metric must return (name, value, is_higher_better), found {answer!r}")
        name, value, higher = answer
        return name, float(value), bool(higher)

    return measure


def _told(function):
    """How many of y, what is predicted, weights and group sizes the function takes: it counts parameters without a default."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):  # Some functions written in C do not say.
        return 2
    placed = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    if any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters):
        return 4
    needed = sum(parameter.kind in placed and parameter.default is Parameter.empty for parameter in parameters)
    if not 2 <= needed <= 4:
        raise ValueError(f"{function!r} must take y and what is predicted, then weights and group sizes if it wants them; it takes {needed} arguments")
    return needed


def _pair(answer, rows):
    try:
        gradient, hessian = answer
        gradient, hessian = (np.ascontiguousarray(values, dtype=np.float64) for values in (gradient, hessian))
    except (TypeError, ValueError):
        raise ValueError(f"the loss must return the gradients and the hessians, two arrays of numbers; found {type(answer).__name__}") from None
    if gradient.shape != (rows,) or hessian.shape != (rows,):
        raise ValueError(f"the loss must return {rows} gradients and {rows} hessians; found shapes {gradient.shape} and {hessian.shape}")
    return gradient, hessian
