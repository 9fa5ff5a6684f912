"""What was meant by a key that is no option."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final

from pulse.model import Config, Task
from pulse.option import options_of

CONFIG: Final = "pulse.config."
DEFAULT: Final = "pulse.config.default."
TASK: Final = "pulse.task."

_LONGEST: Final = 200  # characters of a key that is worth a guess
_ALIKE: Final = 0.7  # from here on two words are one, misspelt; below, `path` would be `at`


def _words(**options: str) -> Mapping[str, str]:
    return {word: option for option, words in options.items() for word in words.split()}


# What other schedulers call the options.
_WORDS: Final[Mapping[type, Mapping[str, str]]] = {
    Task: _words(
        action="url uri path endpoint route target request func command",
        interval="every seconds minutes hours period frequency run_every repeat",
        cron="schedule crontab cron_expression expression trigger when",
        at="run_at run_date date datetime once time",
        timezone="tz",
        start_date="start from not_before",
        end_date="end until not_after",
        offset="phase",
        jitter="splay",
        enabled="disabled active enable",
        description="comment title doc",
        method="verb http_method",
        body="data payload json",
        content_type="mimetype contenttype",
        headers="header",
        environ="env",
        expect_status="status expected_status ok_status success_status",
        timeout="deadline time_limit max_runtime",
        misfire_grace_time="misfire misfire_grace",
        catchup_limit="catchup catch_up",
        max_instances="concurrency max_concurrency",
        lock="mutex",
        run_at_startup="run_on_startup run_on_start run_at_start immediately",
        retries="retry max_retries attempts max_attempts",
        retry_backoff="backoff",
        ping_url="ping healthcheck webhook",
        on_failure="on_error",
    ),
    Config: _words(
        context="prefix base base_path root url_prefix",
        mode="executor worker_class pool",
        workers="threads processes concurrency max_workers",
        guard="protect secure",
        token="secret password api_key key bearer",  # noqa: S106 - words
        timezone="tz",
        host="hostname server_name",
        scheme="protocol",
        store="redis redis_url database database_url db dsn url backend jobstore",
        status="status_page status_path dashboard",
        application="app",
        start="autostart",
        enabled="disabled active enable",
        lease="ttl",
    ),
}


def meant_by(key: str) -> str | None:
    """The key that was most likely meant by *key*, which is none; None for no idea."""
    plain = key.strip()
    if len(plain) > _LONGEST:  # each of a million dots would be looked at
        return None
    parts = plain.split(".")
    if plain.startswith(DEFAULT):
        return _of_tasks(DEFAULT, plain.removeprefix(DEFAULT))
    if plain.startswith(TASK) and len(parts) > 3:
        return _of_tasks(f"{TASK}{parts[2]}.", ".".join(parts[3:]))
    if plain.startswith(TASK) and parts[2] and len(parts) == 3:
        option = _option(parts[2], Task)
        return f"{TASK}<name>.{option}" if option else f"{plain}.<option>"
    if plain.startswith(CONFIG):
        return _of_config(plain.removeprefix(CONFIG))
    return _without_prefix(plain)


def allowed_for(key: str) -> str:
    """What could stand in place of *key*, of which nothing can be guessed."""
    if key.startswith((TASK, DEFAULT)):
        return f"a task has {', '.join(options_of(Task))}"
    if key.startswith(CONFIG):
        return f"want one of {', '.join(options_of(Config))}"
    return f"want a key that begins with {CONFIG} or {TASK}<name>."


def _of_tasks(prefix: str, said: str) -> str | None:
    """An option of tasks, behind *prefix*; or one of the filter, which somebody has put there."""
    option = _option(said, Task)
    if option:
        return f"{prefix}{option}"
    option = _option(said, Config)
    return f"{CONFIG}{option}" if option else None


def _of_config(said: str) -> str | None:
    first, dot, rest = said.partition(".")
    if dot and _is_near(first, ["default"]):
        return _of_tasks(DEFAULT, rest)
    if _plain(said) in options_of(Task):  # it is an option, but one of tasks
        return f"{DEFAULT}{_plain(said)}"
    option = _option(said, Config)
    if option:
        return f"{CONFIG}{option}"
    option = _option(said, Task)
    return f"{DEFAULT}{option}" if option else None


def _without_prefix(said: str) -> str | None:
    """`guard`, `task.cleanup.interval`, `pulse.tasks.cleanup.interval`, `pulse_config_guard`."""
    parts = said.replace(":", ".").split(".")
    if len(parts) == 1:
        return _of_word(_plain(said))
    words = [part for part in parts[:-1] if not _is_near(part, ["pulse"])]
    if not words:
        return _without_prefix(parts[-1])
    kind, rest = words[0], [*words[1:], parts[-1]]
    if _is_near(kind, ["task", "tasks"]):
        name = rest[0] if len(rest) > 1 else "<name>"
        return _of_tasks(f"{TASK}{name}.", rest[-1]) or f"{TASK}{name}.<option>"
    if _is_near(kind, ["default", "defaults"]):
        return _of_tasks(DEFAULT, rest[-1])
    return _of_config(".".join(rest)) if _is_near(kind, ["config", "conf", "configuration"]) else None


def _of_word(word: str) -> str | None:
    for prefix in ("pulse_config_", "pulse_task_", "pulse_"):
        word = word.removeprefix(prefix)
    option = _option(word, Config)
    if option and (option == word or word not in options_of(Task)):
        return f"{CONFIG}{option}"
    option = _option(word, Task)
    return f"{TASK}<name>.{option}" if option else None


def _option(said: str, record: type) -> str | None:
    """The option of *record* that *said* means, with what stands behind it if it is one of many."""
    name, _, entry = said.partition(".")
    word, known = _plain(name), options_of(record)
    option = word if word in known else _WORDS[record].get(word)
    if option is None:
        option = next(iter(get_close_matches(word, known, n=1, cutoff=_ALIKE)), None)
    if option is None or not known[option].is_mapping:
        return option
    return f"{option}.{entry or '<Name>'}"


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_")


def _is_near(word: str, known: Iterable[str]) -> bool:
    return bool(get_close_matches(word.lower(), known, n=1, cutoff=_ALIKE))
