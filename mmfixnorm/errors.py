"""The exceptions for mistakes of the user, as opposed to bugs of this package."""


class ConfigError(ValueError):
    """A mistake in a config, an option or a file, which the user can correct.

    The message states what was found, what was expected and what to do, and names the config key.
    Tools print it without a traceback and exit with status 2.
    """


class RaisedError(ConfigError):
    """Something that a config, or code that it names, raised; the traceback of its cause shows where.

    Tools print its one line as well, and add how to see the traceback.
    """
