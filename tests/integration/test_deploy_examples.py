"""The examples of a deployment name what there is: commands, settings, ports, outcomes."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import uuid
from importlib.metadata import entry_points
from itertools import combinations
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from waitress.adjustments import Adjustments

from pulse.cli import main
from pulse.config import read_paste_config
from pulse.model import Outcome

EXAMPLES = Path(__file__).parents[2] / "examples"
UNIT = EXAMPLES / "deploy" / "pulse.service"
COMPOSE = EXAMPLES / "deploy" / "compose.yaml"
NGINX = EXAMPLES / "deploy" / "nginx.conf"
ALERTS = EXAMPLES / "prometheus_alerts.yml"
DASHBOARD = EXAMPLES / "grafana_dashboard.json"


def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def ini_of(file: Path) -> configparser.RawConfigParser:
    """What the comment at the top of a file says of the ini file beside it."""
    parser = configparser.RawConfigParser()
    parser.optionxform = str
    parser.read_string("\n".join(re.findall(r"^#   (\[.+\]|[\w.]+ = .+)$", text(file), re.MULTILINE)))
    return parser


def settings(file: Path, tmp_path: Path):
    """The configuration that the comment gives, with a task, and a token that is there."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef", encoding="ascii")
    keys = dict(ini_of(file)["filter:pulse"])
    assert keys.pop("use") == "egg:pulse"
    assert keys["pulse.config.token"].startswith("file:/run/")
    return read_paste_config({}, keys | {"pulse.config.token": f"file:{token}", "pulse.task.a.action": "a"})


def commands_of(file: Path) -> list[list[str]]:
    """The command lines of `pulse` that a file gives to a service."""
    lines = re.findall(r"^(?:ExecStart|ExecStartPre)=(.+)$", text(file), re.MULTILINE)
    lists = re.findall(r"^ +command: \[(pulse,.+)\]$", text(file), re.MULTILINE)
    return [shlex.split(line) for line in lines] + [json.loads(f"[{quoted(line)}]") for line in lists]


def quoted(words: str) -> str:
    return ", ".join(word if word.startswith('"') else json.dumps(word) for word in words.split(", "))


@pytest.mark.parametrize("file", [UNIT, COMPOSE], ids=["unit", "compose"])
def test_the_settings_of_a_deployment_are_ones_that_pulse_takes(file, tmp_path):
    config = settings(file, tmp_path)

    assert config.guard
    assert config.token == "0123456789abcdef"


def test_the_web_servers_of_the_composition_believe_what_nginx_says_of_the_client():
    server = dict(ini_of(COMPOSE)["server:main"])
    assert server.pop("use") == "egg:waitress#main"

    believed = Adjustments(**server).trusted_proxy_headers

    said = re.findall(r"proxy_set_header (X-Forwarded-\w+) \$", text(NGINX))
    assert believed == {header.lower() for header in said}


@pytest.mark.parametrize("file", [UNIT, COMPOSE], ids=["unit", "compose"])
def test_the_commands_of_a_deployment_are_commands_of_pulse(file, capsys):
    (script,) = entry_points(group="console_scripts", name="pulse")
    commands = commands_of(file)

    assert script.value == "pulse.cli:main"
    assert {Path(program).name for program, *_ in commands} == {"pulse"}
    assert {words[0] for _, *words in commands} == ({"check", "serve"} if file is UNIT else {"serve", "worker"})
    for _, *words in commands:
        # The file is in its place there, and not here: what it is asked to do is understood.
        assert main(words) == 2
        said = "".join(capsys.readouterr())
        assert words[1] in said
        assert "no such file" in said.lower()


@pytest.mark.parametrize(
    ("file", "patience"),
    [(UNIT, r"^TimeoutStopSec=(\d+)$"), (COMPOSE, r"^  stop_grace_period: (\d+)s$")],
    ids=["unit", "compose"],
)
def test_a_deployment_gives_runs_more_time_to_end_than_pulse_does(file, patience, tmp_path):
    hooks = 5

    granted = int(re.search(patience, text(file), re.MULTILINE)[1])

    assert granted > settings(file, tmp_path).shutdown_timeout.total_seconds() + hooks


def test_nginx_the_composition_and_the_settings_name_the_same_ports_paths_and_services(tmp_path):
    config = settings(COMPOSE, tmp_path)
    block = text(COMPOSE).partition("\nservices:\n")[2].partition("\nsecrets:\n")[0]
    services = set(re.findall(r"^  (\w+):$", block, re.MULTILINE))
    (served,) = [words for words in commands_of(COMPOSE) if "serve" in words]
    port = served[served.index("--port") + 1]

    assert re.search(r"server (\w+:\d+);", text(NGINX))[1] == f"web:{port}"
    assert f'expose: ["{port}"]' in text(COMPOSE)
    assert f"http://127.0.0.1:{port}{config.status}/live" in text(COMPOSE)
    assert re.findall(r"^ +location (?:= )?(\S+) {", text(NGINX), re.MULTILINE) == [
        "/",
        config.status,
        f"{config.status}/live",
    ]
    assert re.match(r"redis://(\w+):6379", config.store)[1] in services
    assert f"./{NGINX.name}:/etc/nginx/nginx.conf:ro" in text(COMPOSE)
    assert text(NGINX).count("{") == text(NGINX).count("}")


def test_the_unit_is_one_that_systemd_takes(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / f"pulse-{uuid.uuid4().hex}.service"
    unit.write_text(re.sub(r"/srv/pulse/\.venv/bin/pulse\b", "/bin/true", text(UNIT)), encoding="utf-8")

    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)

    assert unit.name not in done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", [COMPOSE, ALERTS], ids=["compose", "alerts"])
def test_what_should_be_yaml_is(file):
    assert yaml.safe_load(text(file))


def test_every_alert_says_what_it_is_about_and_how_urgent_that_is():
    alerts = dedent(text(ALERTS).partition("    rules:\n")[2]).split("\n\n")

    assert len({re.match(r"- alert: (\w+)\n", alert)[1] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert re.search(
            r'\n  expr: .+\n(  for: .+\n)?  labels: {severity: (page|ticket)}\n.+\n    summary: ".+"', alert
        )


def test_the_outcomes_that_alerts_count_are_outcomes_of_runs():
    (counted,) = re.findall(r'outcome=~"([\w|]+)"', text(ALERTS))

    assert set(counted.split("|")) <= {outcome.value for outcome in Outcome}


def test_the_panels_of_the_dashboard_ask_for_something_and_do_not_lie_on_each_other():
    panels = json.loads(text(DASHBOARD))["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all("pulse_" in target["expr"] for panel in panels for target in panel["targets"])
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
