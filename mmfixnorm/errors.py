"""The exception for mistakes of the user, as opposed to bugs of this package."""


class ConfigError(ValueError):
    """A mistake in a config, an option or a file, which the user can correct.

    The message states what was found, what was expected and what to do, and names the config key.
    Tools print it without a traceback and exit with status 2.
    """
