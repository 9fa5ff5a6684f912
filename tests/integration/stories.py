"""Tests that mostly wait, told side by side.

story = Stories()

@story
def the_run_of_a_killed_worker_is_lost(folder): ...

@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    with story.told(request, tmp_path_factory) as told:
        yield told

@pytest.mark.parametrize("name", story)
def test_story(told, name):
    told(name)
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

AT_ONCE = 4  # waiting costs nothing, but starting servers does, and others tell theirs at the same time


class Stories(dict[str, Callable[[Path], None]]):
    """The stories of a module by name; each takes an empty folder."""

    def __call__(self, tell: Callable[[Path], None]) -> Callable[[Path], None]:
        """Take up a story under its own name."""
        self[tell.__name__] = tell
        return tell

    def each(self, **ways: Any) -> Callable[[Callable[[Path, Any], None]], Callable[[Path, Any], None]]:
        """Take up a story once for each of *ways*, which it is given beside the folder."""

        def take_up(tell: Callable[[Path, Any], None]) -> Callable[[Path, Any], None]:
            self.update({f"{tell.__name__}-{way}": partial(_told_with, tell, given) for way, given in ways.items()})
            return tell

        return take_up

    @contextmanager
    def told(self, request: Any, tmp_path_factory: Any) -> Iterator[Callable[[str], None]]:
        """Begin those that are selected; the result waits for one of them, and raises what it raised.

        Whoever asks for one again, as its second chance, has it told anew.
        """
        items = [item for item in request.session.items if item.module is request.module]
        params = [item.callspec.params for item in items if hasattr(item, "callspec")]
        names = [given["name"] for given in params if given.get("name") in self]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures: dict[str, Future[None]] = {
                name: pool.submit(self[name], tmp_path_factory.mktemp("story")) for name in names
            }

            def hear(name: str) -> None:
                begun = futures.pop(name, None) or pool.submit(self[name], tmp_path_factory.mktemp("again"))
                begun.result()

            try:
                yield hear
            finally:
                pool.shutdown(cancel_futures=True)


def _told_with(tell: Callable[[Path, Any], None], given: Any, folder: Path) -> None:
    tell(folder, given)
