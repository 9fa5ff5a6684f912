"""The pytest plugin: in a test run no task runs by itself.

Every pytest loads it in whose environment Pulse is installed, so it imports nothing of Pulse
until a test asks for it.
"""

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pulse.testing import ManualClock

OPTION: Final = "pulse_start"
WORDS: Final = ("manual", "configured")
VARIABLE: Final = "PULSE_START"  # that of pulse.wsgi.lazy, which would load much of Pulse


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini(
        OPTION,
        "whether tasks run by themselves while tests run: manual, never (the default; it sets PULSE_START); "
        "configured, as the application and the environment say",
        type="string",
        default="manual",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Do what the option asks for; first of all, as a conftest may build the application.

    Raises:
        pytest.UsageError: it asks for nothing that there is; pytest ends with this message.
    """
    _apply(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """The same, for a plugin that a conftest has loaded: nobody calls the hook above then.

    Raises:
        pytest.UsageError: as above.
    """
    _apply(config)


@pytest.fixture
def pulse_clock() -> "ManualClock":
    """A clock that the test moves, for `rehearse(app, clock=pulse_clock)`; it begins with 2027, UTC."""
    from pulse.testing import ManualClock  # noqa: PLC0415 - it loads all of Pulse

    return ManualClock()


_word: Final = pytest.StashKey[str]()


def _apply(config: pytest.Config) -> None:
    if _word in config.stash:
        return
    word = config.stash[_word] = str(config.getini(OPTION)).strip().lower()
    if word not in WORDS:
        raise pytest.UsageError(f"{OPTION} = {word!r}: want {' or '.join(WORDS)}")
    if word == "manual":
        patch = pytest.MonkeyPatch()
        config.add_cleanup(patch.undo)
        patch.setenv(VARIABLE, "manual")
