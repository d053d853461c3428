"""What is installed, told without importing it."""

from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> str | None:
    """A package's version; None where it is not installed.

    >>> installed_version("no such package") is None
    True
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None
