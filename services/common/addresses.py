"""Addresses as they may be shown."""

from urllib.parse import urlsplit


def without_credentials(url: str) -> str:
    """A URL without its user name and password, for messages, logs and files."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
