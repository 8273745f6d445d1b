"""The one exception for bad input: a single line that a person can act on."""


class InputError(ValueError):
    """What was given, what was expected, what to do. The command line prints it and exits with 2."""
