"""The package sits in the root of the checkout, which hides what a wheel lacks: here it is built and used elsewhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from textwrap import dedent
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("pyproject.toml", "setup.py", "README.rst", "LICENSE", "pulse")

INI = """
    [pipeline:main]
    pipeline = pulse application

    [filter:pulse]
    use = {use}
    pulse.config.context = sessions
    pulse.task.cleanup.action = cleanup
    pulse.task.cleanup.interval = 0.25

    [app:application]
    paste.app_factory = application:make
    """

APPLICATION = """
    from threading import Event

    cleaned_twice = Event()
    requested = []

    def make(global_conf):
        return application

    def application(environ, start_response):
        requested.append(environ["PATH_INFO"])
        if requested.count("/sessions/cleanup") == 2:
            cleaned_twice.set()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"cleaned"]
    """

PROGRAM = """
    import application
    import pulse
    from paste.deploy import loadapp

    app = loadapp("config:sample.ini", relative_to=".")
    app.start()
    try:
        assert application.cleaned_twice.wait(60), application.requested
    finally:
        app.close()
    assert set(application.requested) == {"/sessions/cleanup"}, application.requested
    print(pulse.__file__)
    """

LOOK_AT_IMPORT = """
    import sys, threading
    import pulse

    print(pulse.__file__)
    print(threading.active_count())
    print(*sorted({name.partition(".")[0] for name in sys.modules}))
    """


SUITE = """
    import os

    def test_the_plugin_is_there(request, pulse_clock):
        assert request.config.pluginmanager.hasplugin("pulse")
        assert os.environ["PULSE_START"] == "manual"
    """

PLUGIN = """
    import sys
    import pulse.pytest_plugin

    print(*sorted(name for name in sys.modules if name.partition(".")[0] == "pulse"))
    """


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    for litter in list(source.rglob("__pycache__")):
        shutil.rmtree(litter)

    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."], source)

    (built,) = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python that has pulse from the wheel, and the libraries of the one that runs the tests."""
    place = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", "."], place)
    python = place / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel], place)
    site_packages = next(place.glob("lib/python*/site-packages"))
    # A .pth file inside a directory that a .pth file names is not read: an editable pulse stays out.
    site_packages.joinpath("libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(command, cwd):
    """Its output; the environment has neither the variables of this process nor its home."""
    environ = {"PATH": os.defpath, "HOME": str(cwd), "TMPDIR": str(cwd)}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package(wheel):
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("pulse/**/*") if path.is_file()}

    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert "pulse/py.typed" in packed
    assert packed == {name for name in files if "__pycache__" not in name}


def test_the_wheel_tells_package_indexes_what_the_readme_says(wheel):
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = archive.read(name).decode()

    assert "Description-Content-Type: text/x-rst" in said
    assert "pulse.task.cleanup.interval = 300" in said
    assert "Where to go on" in said
    assert "<docs/" not in said


@pytest.mark.parametrize("use", ["egg:pulse", "egg:pulse#pulse_factory"])
def test_the_installed_filter_requests_the_clean_up_of_sessions(python, tmp_path, use):
    (tmp_path / "sample.ini").write_text(dedent(INI).format(use=use))
    (tmp_path / "application.py").write_text(dedent(APPLICATION))
    (tmp_path / "program.py").write_text(dedent(PROGRAM))

    output = run([python, "program.py"], tmp_path)

    assert python.parents[1] in Path(output.strip()).parents


def test_import_starts_no_thread_and_loads_no_library(python, tmp_path):
    output = run([python, "-c", dedent(LOOK_AT_IMPORT)], tmp_path)

    file, threads, modules = output.splitlines()
    assert python.parents[1] in Path(file).parents
    assert threads == "1"
    libraries = {"redis", "fastapi", "starlette", "bareasgi", "uvicorn", "apscheduler", "webob", "paste"}
    assert libraries.isdisjoint(modules.split())


def test_pytest_finds_the_plugin_without_being_told_and_rehearses_an_application(python, tmp_path):
    (tmp_path / "test_suite.py").write_text(dedent(SUITE))
    shutil.copy(ROOT / "examples" / "test_your_app.py", tmp_path)

    # All of Pulse goes through its rewriting of asserts then, as pytest does with what has a plugin.
    output = run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error::pytest.PytestWarning"], tmp_path
    )

    assert output.splitlines()[-1].startswith("6 passed")


def test_the_plugin_loads_nothing_of_pulse(python, tmp_path):
    assert run([python, "-c", dedent(PLUGIN)], tmp_path).split() == ["pulse", "pulse.pytest_plugin"]
