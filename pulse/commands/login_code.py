"""`pulse login-code`: a link that logs in to the status page, once and within ten minutes."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import opened
from pulse.model import Config
from pulse.runstores.base import RunStore
from pulse.status.login import code_key, make_code


def login_code(source: Source, screen: Screen, clock: Clock) -> Exit:
    """Show a link for each Pulse filter of *source* that has a status page.

    Raises:
        ConfigError, CommandError: the filters cannot be read, or none has a status page.
        StoreUnavailableError: the store does not answer.
    """
    with opened(source, clock, is_changing=True) as filters:
        links = list(login_links([(one.config, one.store) for one in filters], clock.now()))
    if not links:
        raise CommandError(f"{source.name}: no filter has a status page (pulse.config.status = /_pulse)")
    if screen.is_json:
        screen.document({"source": source.name, "links": links})
        return Exit.OK
    for link in links:
        screen.line(f"{link}")
    screen.line("on the address of the server; it logs in once, within ten minutes")
    return Exit.OK


def login_links(filters: Sequence[tuple[Config, RunStore]], now: datetime) -> Iterator[str]:
    """A path with a code for each filter that has a status page.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    for config, store in filters:
        if config.status:
            yield f"{config.status}/login?code={make_code(code_key(config.token, store.secret()), now)}"
