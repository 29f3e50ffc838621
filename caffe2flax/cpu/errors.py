"""What can go wrong beside what the plain function itself raises."""


class ChangingModelError(ValueError):
    """A call changes the model's own variables, which a compiled program cannot."""


class MismatchError(ArithmeticError):
    """A compiled program and the plain one differ by more than 2e-5."""
