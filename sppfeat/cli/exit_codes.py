"""Exit codes of the program."""

__all__ = ["EXIT_ERROR", "EXIT_INTERRUPTED", "EXIT_SOME_FAILED", "EXIT_USAGE"]

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3  # finished, but some images failed
EXIT_INTERRUPTED = 130  # the same command again continues
