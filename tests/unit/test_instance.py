"""A process is told from every other one, and its end is seen."""

import os
import socket

import pytest

from pulse import instance
from pulse.instance import is_gone, short, this_instance


def test_an_instance_is_named_by_host_and_pid():
    assert short(this_instance()) == f"{socket.gethostname()}:{os.getpid()}"


def test_this_process_is_not_gone():
    assert is_gone(this_instance()) is False


def test_a_process_whose_pid_was_given_out_again_is_gone():
    name, _, rest = this_instance().rpartition("/")
    _, _, place = rest.partition(".")

    assert is_gone(f"{name}/1.{place}") is True


def test_a_process_that_has_ended_is_gone():
    own = this_instance()
    free = next(pid for pid in range(4_000_000, 5_000_000) if not os.path.exists(f"/proc/{pid}"))  # noqa: PTH110

    assert is_gone(own.replace(f":{os.getpid()}/", f":{free}/")) is True


def test_a_process_with_a_pid_that_no_system_gives_out_is_gone():
    assert is_gone(this_instance().replace(f":{os.getpid()}/", ":99999999999999999999/")) is True


def test_what_cannot_be_seen_is_no_sign_of_an_end(monkeypatch):
    own = this_instance()
    monkeypatch.setattr(instance, "_place", lambda: own.partition("/")[2].partition(".")[2])

    def no_descriptors(*args, **kwargs):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(instance.Path, "read_text", no_descriptors)

    assert is_gone(own) is False


@pytest.mark.parametrize("answer", [PermissionError(1, "Operation not permitted"), None])
def test_a_process_that_proc_does_not_show_to_this_user_is_not_gone(monkeypatch, answer):
    own, asked = this_instance(), []
    monkeypatch.setattr(instance, "_place", lambda: own.partition("/")[2].partition(".")[2])

    def hidden(*args, **kwargs):  # as with hidepid=2, or ProtectProc=invisible
        raise FileNotFoundError(2, "No such file or directory")

    def kill(pid, number):
        asked.append((pid, number))
        if answer is not None:
            raise answer

    monkeypatch.setattr(instance.Path, "read_text", hidden)
    monkeypatch.setattr(instance.os, "kill", kill)

    assert is_gone(own) is False
    assert asked == [(os.getpid(), 0)]


def test_without_proc_an_instance_is_named_by_host_and_pid_alone(monkeypatch):
    def nothing_there(*args, **kwargs):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(instance.Path, "read_text", nothing_there)

    assert this_instance() == f"{socket.gethostname()}:{os.getpid()}"


def test_where_proc_is_that_of_another_pid_namespace_an_instance_is_named_by_host_and_pid_alone(monkeypatch):
    own = this_instance()
    monkeypatch.setattr(instance.os, "getpid", lambda: 4_999_999)  # which /proc does not show, or as a stranger

    assert this_instance() == f"{socket.gethostname()}:4999999"
    assert is_gone(own.replace(f":{short(own).rpartition(':')[2]}/", ":1/")) is False


@pytest.mark.parametrize("owner", ["", "one", "host:1", "host:1/2", "host:1/2.other-boot.3", "host:x/2.ab.3"])
def test_nothing_is_said_about_strangers(owner):
    assert is_gone(owner) is False
