"""Every code of this room can be explained, and none twice."""

from __future__ import annotations

import re
from pathlib import Path

import pv.falsify
from pv.falsify import gate
from pv.falsify.codes import CODES


def test_every_code_that_is_written_in_this_room_is_explained():
    room = Path(pv.falsify.__file__).parent
    written = {code for path in room.glob("*.py") for code in re.findall(r'"(PV\d{3})"', path.read_text())}
    assert written == {*CODES, *gate.CODES}
    assert not set(CODES) & set(gate.CODES)


def test_an_explanation_says_why_and_what_to_do():
    for code, told in CODES.items():
        assert told.title, code
        assert told.why.endswith("."), code
        assert told.fix, code
