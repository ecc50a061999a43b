"""What may be shown of an address."""

import pytest

from services.common.addresses import without_credentials
from services.common.errors import UnavailableError
from services.common.streams import connect


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@host:6379/0", "redis://host:6379/0"),
        ("rediss://user:p%40ss@host:6379/1?ssl=1", "rediss://host:6379/1?ssl=1"),
    ],
)
def test_credentials_are_never_shown(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


async def test_an_error_does_not_tell_the_password() -> None:
    with pytest.raises(UnavailableError, match="redis://127.0.0.1:1/0") as raised:
        await connect("redis://:secret@127.0.0.1:1/0")
    assert "secret" not in str(raised.value)
