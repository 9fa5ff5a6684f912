"""Whether a path may be read as a guarded one, however it is spelt.

Applications read one path in many ways: they decode it once more, fold its case, cut
parameters, climb at `..`. All of these readings are made, and one of them that is guarded
is enough.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from string import punctuation
from typing import Final
from urllib.parse import unquote_to_bytes

# What has one reading only, and is what honest requests ask for: slashes, names, nothing else.
ORDINARY: Final = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*,=:-][A-Za-z0-9_~@!$&'()*+,=:.-]*)*/?")
LONGEST: Final = 4096  # bytes of any other path; the request line of most servers is no longer
_ROUNDS: Final = 8  # of decoding; nobody encodes so often who means well
_MOST_NAMES: Final = 64  # segments of a path of which some may get lost
_ESCAPE: Final = re.compile("%[0-9a-f]{2}", re.IGNORECASE)
_OVERLONG: Final = re.compile(  # UTF-8 that spells out an ASCII character in more than one byte
    rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x81][\x80-\xbf]|\xf0\x80[\x80-\x81][\x80-\xbf]"
)
_INVISIBLE: Final = re.compile(  # controls, surrogates, and what Unicode says to ignore where it cannot be shown
    "[\0-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# For `re.IGNORECASE`, and so for Django's `(?i)`, both letters i of Turkish are an i; for `casefold` neither is.
# A dot of its own is that of the dotted one; those above other letters are part of them here.
_DOTS: Final = str.maketrans({"\u0131": "i", "\u0307": None})
_STROKES: Final = str.maketrans("ØĐŁĦŦøđłħŧ", "ODLHTodlht")  # marks that Unicode takes for a part of the letter
_ADDRESS: Final = re.compile(r"https?:/(/[\w.:@\[\]-]*)(/.*|$)", re.IGNORECASE | re.ASCII | re.DOTALL)
_PARAMETERS: Final = re.compile("[;?#][^/]*")
_ENDS: Final = (
    _PARAMETERS,
    *map(re.compile, ("[?#][^/]*", ";[^/;]*/?$")),  # only these, of a path that is guarded with parameters
    *map(re.compile, ("\0[^/]*", "[\r\n][^/]*")),  # of a text in C, of a line
)
_CONTROLS: Final = bytes([*range(0x20), 0x7F])
_VIEW: Final = re.compile(r"^\s*(?:@@|\+\+view\+\+)")  # Pyramid and Zope: `@@cleanup` is the view `cleanup`
# CherryPy and TurboGears read all punctuation of a segment as `_`: `clean-up` is the method `clean_up`.
# A blank is one of these, too, since whoever decodes a path as a form is decoded reads a + as a blank.
_PLAIN: Final = str.maketrans(dict.fromkeys(f"{punctuation} ", "_"))


class _UnreadableError(Exception):
    """A path that is longer, or decoded more often, than honest ones are."""


class Paths:
    """A set of guarded paths; false when it is empty."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._has_root = False
        self._below: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)  # the last segments, by those before
        ordinary: defaultdict[str, list[str]] = defaultdict(list)  # the same of many paths, which have few stems
        for path in paths:
            if path in ("", "/"):
                self._has_root = True
            elif ORDINARY.fullmatch(path):
                stem, _, last = path.rstrip("/").rpartition("/")
                ordinary[stem].append(last)
            else:
                for names in _names_of(path):
                    self._has_root |= not names
                    self._below[names[:-1]].update(names[-1:])
        for stem, lasts in ordinary.items():
            names = tuple(_plain(name) for name in stem.lower().split("/") if name)
            self._below[names].update(_plain("\n".join(lasts).lower()).split("\n"))
        # Below each of these something is guarded, however far.
        self._stems = {stem[:depth] for stem in self._below for depth in range(1, len(stem) + 1)}
        self._deepest = max(map(len, self._below), default=0)

    def __bool__(self) -> bool:
        return self._has_root or bool(self._below)

    def has(self, way: str, mounted: int = 0) -> bool:
        """Whether *way* (bytes as latin-1, as WSGI has them) may be read as a guarded path.

        Args:
            way: A path, or the address of one, without its query.
            mounted: How many of its segments a router may have taken away in front.
        """
        if ORDINARY.fullmatch(way):
            # The rest of a long path is below what is guarded, or is not.
            names = way.strip("/").lower().split("/", self._deepest + mounted + 1)
            return self._leads_to(names if names[0] else [], mounted)
        if address := _ADDRESS.fullmatch(way):
            server, path = address.groups()  # a proxy may ask so (RFC 9112, 3.2.2), about any neighbour
            return self.has(path, mounted) or self.has(server + path, mounted)
        is_relative = not way.startswith("/")
        try:
            texts = _distinct(_readings(_wsgi_bytes(way)))  # of what is made to be read in many ways, a quarter
            return any(self._has_text(text, mounted, is_relative) for text in texts)
        except _UnreadableError:
            return True

    def _has_text(self, text: str, mounted: int, is_relative: bool) -> bool:  # noqa: FBT001 - for one caller
        for way in {text, _PARAMETERS.sub("", text)}:
            first, *others = _segments(way)
            segments = [*first.split(":"), *others]
            names = [segment for segment in segments if segment not in ("", ".", "..")]
            # What follows `//` may be the name of a server, and what is before the first slash too;
            # whoever drops the dots of `/.//` reads it so.
            is_address = is_relative or not next((segment for segment in others if segment != "."), "")
            if self._may_lead_to(names) if is_address or ".." in segments else self._leads_to(names, mounted):
                return True
        return False

    def _leads_to(self, names: list[str], mounted: int) -> bool:
        """Whether *names* are those of a guarded path, or of one below it."""
        if mounted and self._leads_to(names[mounted:], 0):
            return True
        if not names:
            return self._has_root
        stem: tuple[str, ...] = ()
        for name in names:
            lasts = self._below.get(stem)
            if lasts and not lasts.isdisjoint(_endings(name)):
                return True
            stem = (*stem, _plain(name))
            if stem not in self._stems:
                return False
        return False

    def _may_lead_to(self, names: list[str]) -> bool:
        """Whether *names*, of which any may get lost on the way, leave those of a guarded path.

        Which ones a server's name or a `..` takes away depends on when and how often a path
        is decoded; but what is left has the same order.
        """
        if self._has_root or len(names) > _MOST_NAMES:
            return True
        return self._may_lead_on((), [(_plain(name), _endings(name)) for name in names])

    def _may_lead_on(self, stem: tuple[str, ...], rest: list[tuple[str, set[str]]]) -> bool:
        """Whether some of *rest* lead on from *stem*; thousands of stems cost no more than those that *rest* names."""
        lasts = self._below.get(stem)
        if lasts and any(not lasts.isdisjoint(endings) for _, endings in rest):
            return True
        tried: set[str] = set()  # the first of several leaves the most behind it
        for place, (name, _) in enumerate(rest, 1):
            if name not in tried and (*stem, name) in self._stems and self._may_lead_on((*stem, name), rest[place:]):
                return True
            tried.add(name)
        return False


def _names_of(path: str) -> Iterator[tuple[str, ...]]:
    """The segments of the guarded *path*, which is no ordinary one, as they are compared."""
    *_, decoded = _decodings(path.encode())
    texts = {decoded.decode("latin-1")}  # what is no UTF-8 is compared in this reading only
    with suppress(UnicodeDecodeError):
        texts |= {decoded.decode(), _unmarked(decoded.decode())}
    for text in texts:
        yield tuple(_plain(name) for name in _segments(_folded(text)) if name)


def _segments(text: str) -> list[str]:
    return [_VIEW.sub("", segment).strip() for segment in text.split("/")]


def _plain(name: str) -> str:
    # Most names have no punctuation, and `translate` costs more than all the rest.
    return name if name.isalnum() else name.translate(_PLAIN)


def _endings(name: str) -> set[str]:
    """The last segment *name* as routers may read it: without an extension or trailing punctuation."""
    if name.isalnum():
        return {name}
    stems = name, name.partition(".")[0], name.rpartition(".")[0]
    return {name.translate(_PLAIN), *(stem.translate(_PLAIN).rstrip("_ ") for stem in stems)}


def _wsgi_bytes(way: str) -> bytes:
    try:
        return way.encode("latin-1")
    except UnicodeEncodeError:  # against PEP 3333, but some test clients do it
        return way.encode("utf-8", "surrogatepass")


def _readings(path: bytes) -> Iterator[str]:
    """Every text that *path* may be read as, folded."""
    if len(path) > LONGEST:
        raise _UnreadableError
    for decoded in _decodings(path):
        bare = decoded.translate(None, _CONTROLS)  # one between the bytes of a letter hides it
        texts = {decoded.decode("utf-8", "ignore"), bare.decode("utf-8", "ignore")}
        texts |= {decoded.decode("latin-1"), *map(_unmarked, texts)}
        for text in texts | {text.replace("\\", "/") for text in texts}:
            yield _folded(text)
            if not text.isprintable():  # letters that no font has, and blanks other than the common one
                yield _folded("".join(filter(str.isprintable, text)))
            yield from map(_folded, {end.sub("", text) for end in _ENDS if end.search(text)})


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def _decodings(path: bytes) -> Iterator[bytes]:
    """*path*, decoded once more each time, until nothing is left to decode."""
    for _ in range(_ROUNDS):
        yield path
        decoded = _decoded(path)
        if decoded == path:
            # A full-width percent sign, or one that is cut in two by what is not seen.
            folded = _folded(path.decode("utf-8", "ignore"))
            if not _ESCAPE.search(folded):
                return
            decoded = _decoded(folded.encode())
        path = decoded
    raise _UnreadableError


def _decoded(path: bytes) -> bytes:
    decoded = unquote_to_bytes(path) if b"%" in path else path
    # One after the other: to some what is overlong is no letter at all, and is left out.
    return _OVERLONG.sub(_shortest, path) if decoded == path else decoded


def _shortest(overlong: re.Match[bytes]) -> bytes:
    *_, high, low = overlong[0]
    return bytes([(high & 0x01) << 6 | low & 0x3F])


def _unmarked(text: str) -> str:
    """*text* without the marks of its letters: what looks up a name in a database finds the same, in most of them."""
    if text.isascii():
        return text
    letters = unicodedata.normalize("NFKD", text).translate(_STROKES)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _folded(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold().translate(_DOTS)
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    elif not text.isprintable():
        text = _INVISIBLE.sub("", text)
    return text.lower().replace("\\", "/")
