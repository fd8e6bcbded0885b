"""The one exception for faults that the user can mend."""


class InputError(ValueError):
    """Bad input from the user: the message names the case and the file and says what to do, in a line or two.

    The command prints the message without a traceback and exits with status 1.
    """
