"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Bad input: one line that says what, where (file, row, field), what is allowed and what to do.

    Launch scripts print it and exit with code 2; every other exception is a defect and keeps its traceback.
    """
