"""The folder in which the tests, and all that they start, leave what they do not remove."""

import signal
from pathlib import Path

import pytest
from servers import passing_folder, program, wait_until

HOLDER = """
from servers import passing_folder
from signal import pause

with passing_folder() as folder:
    (folder / "kept" / "deep").mkdir(parents=True)
    print(folder, flush=True)
    pause()
"""


def test_it_goes_with_the_block():
    with passing_folder() as folder:
        (folder / "file").touch()

    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_goes_with_a_process_that_is_ended(number):
    with program("-c", HOLDER) as holder:
        folder = Path(wait_until(lambda: holder.output).strip())
        assert (folder / "kept").exists()

        holder.signal(number)

    wait_until(lambda: not folder.exists())
