"""Errors besides those of the plain function."""


class ChangingModelError(ValueError):
    """A call changes the model's own variables, which a compiled program cannot do."""


class MismatchError(ArithmeticError):
    """A compiled program and the plain one differ by more than 2e-5."""
