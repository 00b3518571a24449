"""What is the user's mistake, told apart from ours."""


class ConfigError(ValueError):
    """A config, an option or a file that the user can put right.

    The message says what was found, what was expected and what to do, and names the config key.
    Tools print it without a traceback and exit with status 2.
    """
