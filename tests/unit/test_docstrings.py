import inspect
import pkgutil
from importlib import import_module

import pulse


def modules():
    names = [one.name for one in pkgutil.walk_packages(pulse.__path__, "pulse.")]
    return [import_module(name) for name in names if name != "pulse.__main__"]


def public_methods(module):
    """The methods and properties of the public classes of *module*, by their names."""
    for name, kind in vars(module).items():
        # By its type, since `isinstance` would ask a proxy of Celery for what it stands for.
        if not issubclass(type(kind), type) or kind.__module__ != module.__name__ or name.startswith("_"):
            continue
        for method, value in vars(kind).items():
            is_method = inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod)
            if is_method and not method.startswith("_"):
                yield f"{module.__name__}.{name}.{method}", getattr(kind, method)


def test_every_public_method_has_words_of_its_own_or_those_of_what_it_overrides():
    silent = [name for module in modules() for name, method in public_methods(module) if not inspect.getdoc(method)]

    assert silent == []
