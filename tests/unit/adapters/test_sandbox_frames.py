"""What a scan process may say of a value: what its kind writes, and nothing else that its kind reads."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hashweir.adapters.sandbox_frames import BadReply, Reply, unpack_replies
from hashweir.errors import InputError
from hashweir.hashing import HASHERS, RECIPES
from hashweir.model import AnyForm, Fingerprint, Kind, Scan

FORMS: dict[Kind, AnyForm] = {kind: form for kind, form in RECIPES if form in ("canonical", "raw", "normal")}


def taken(kind: Kind, value: str) -> bool:
    """Whether a reply with this value is believed."""
    form = FORMS[kind]
    one = Fingerprint(kind=kind, form=form, recipe=RECIPES[kind, form], value=value)
    scan = Scan(media_class=None, media_type=None, fingerprints=(one,))
    try:
        unpack_replies(msgspec.msgpack.encode([Reply(number=1, scan=scan)]), [1])
    except BadReply:
        return False
    return True


@pytest.mark.parametrize("kind", FORMS)
@given(data=st.data())
def test_what_is_written_is_believed_and_no_other_spelling(kind: Kind, data: st.DataObject) -> None:
    hasher = HASHERS[kind]
    value = hasher.show(data.draw(st.binary(min_size=hasher.width, max_size=hasher.width)))
    assert taken(kind, value)
    at = data.draw(st.integers(0, len(value) - 1))
    near = value[:at] + data.draw(st.characters()) + value[at + 1 :]
    for other in (near, value.swapcase(), value + "\n", value[1:], value.removeprefix("T1")):
        try:
            canonical = hasher.show(hasher.parse(other)) == other
        except InputError:
            canonical = False
        assert taken(kind, other) == canonical


@given(value=st.text(max_size=72))
@example("TNULL")
@example("\u0661" * 64)
def test_no_other_text_is_believed(value: str) -> None:
    for kind, hasher in HASHERS.items():
        try:
            canonical = hasher.show(hasher.parse(value)) == value
        except InputError:
            canonical = False
        assert taken(kind, value) == canonical
