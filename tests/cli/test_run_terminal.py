"""The terminal of ``afterload run``: what output looks like as rows, whole or in pieces, and hostile output."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterload.cli.terminal import Filter, Terminal, colours
from afterload.patch import text

CASES = {
    "plain": (b"one\r\ntwo\r\n", ["one", "two"]),
    "a carriage return begins the line again": (b"10%\r20%\r100%", ["100%"]),
    "the cursor goes up": (b"a\r\nb\r\n\x1b[2AX\x1b[2B", ["X", "b"]),
    "the line is cleared": (b"long line\r\x1b[Kshort", ["short"]),
    "bold red": (b"\x1b[1;31mno\x1b[0m!", ['<span class="f1 b">no</span>!']),
    "of 256 colours": (b"\x1b[38;5;208mx\x1b[m", ['<span class="f208">x</span>']),
    "of all colours, with colons": (b"\x1b[38:2::255:135:0mx\x1b[m", ['<span class="f208">x</span>']),
    "reverse": (b"\x1b[7mx\x1b[m", ['<span class="fd gd">x</span>']),
    "bright background": (b"\x1b[105mx\x1b[m", ['<span class="g13">x</span>']),
    "markup is text": (
        b"</script><img src=x onerror=alert(1)>",
        ["&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"],
    ),
    "a title is left out": (b"a\x1b]0;owned\x07b\x1b]2;owned\x1b\\c", ["abc"]),
    "a link is its text": (b"\x1b]8;;javascript:alert(1)\x1b\\x\x1b]8;;\x1b\\y", ["xy"]),
    "a clipboard is left out": (b"a\x1b]52;c;b3duZWQ=\x07b", ["ab"]),
    "device strings are left out": (b"a\x1bP1$qm\x1b\\b\x1b_app\x1b\\c", ["abc"]),
    "private sequences": (b"a\x1b[>4;2mb\x1b[<uc\x1b[=1ud\x1b[?2004he\x1b[?3hf\x1b[!pg", ["abcdefg"]),
    "bracketed junk": (b"[[\x1b[200~x\x1b[201~]]", ["[[x]]"]),
    "invalid bytes are replaced": (b"a\xffb\xc3", ["a�b�"]),
    "lone surrogates are replaced": (b"a\xed\xa0\x80b", ["a���b"]),
    "NUL and other controls are left out": (b"a\x00\x01\x7fb\xc2\x9bc\x0e\x0f", ["abc"]),
    "several bytes": ("naïve 漢字 🎉!".encode(), ["naïve 漢字 🎉!"]),
    "characters without a width do not eat the rest": ("a\u200bb\ufe0fc".encode(), ["abc"]),
    "few marks on one character": (("e" + "\u0301" * 500 + "x").encode(), ["é" + "\u0301" * 3 + "x"]),
    "back from the alternate screen": (b"main\x1b[?1049h\x1b[Hfull\x1b[?1049l!", ["main!"]),
}


def rows(*pieces: bytes) -> list[str]:
    terminal = Terminal(40, 5)
    final = [row for piece in pieces for row in terminal.feed(piece)]
    final += terminal.feed(b"", final=True)
    return [str(row) for row in (*final, *terminal.rows()) if row]


@pytest.mark.parametrize("case", CASES)
def test_output_becomes_rows(case: str) -> None:
    data, shown = CASES[case]
    assert rows(data) == shown


@pytest.mark.parametrize("case", CASES)
def test_output_may_be_cut_anywhere(case: str) -> None:
    data, shown = CASES[case]
    assert rows(*(data[i : i + 1] for i in range(len(data)))) == shown
    for cut in range(len(data)):
        assert rows(data[:cut], data[cut:]) == shown


def test_rows_that_scroll_off_are_final_and_in_order() -> None:
    terminal = Terminal(20, 3)
    final = terminal.feed(b"".join(b"%d\r\n" % n for n in range(10)))
    assert final == [str(n) for n in range(8)]
    assert terminal.rows() == ["8", "9", ""]


def test_an_empty_line_has_a_height_and_what_is_below_has_none() -> None:
    terminal = Terminal(20, 4)
    terminal.feed(b"a\r\n\r\nb")
    assert terminal.rows() == ["a", "<br>", "b", ""]


def test_with_pipes_a_line_feed_begins_a_line() -> None:
    terminal = Terminal(20, 1, bare=True)
    assert terminal.feed(b"one\ntwo\nthr") == ["one", "two"]
    assert terminal.rows() == ["thr"]


def test_behind_a_gap_nothing_of_before_is_left() -> None:
    terminal = Terminal(20, 3)
    terminal.feed(b"\x1b[31mred \x1b]0;never ended")
    assert terminal.cut() == ['<span class="f1">red </span>']
    terminal.feed(b"plain")
    assert terminal.rows()[0] == "plain"


def test_a_string_that_never_ends_is_not_waited_for_for_ever() -> None:
    kept = Filter()
    shown = "".join(kept.feed(b"\x1b]" + b"x" * 8192) for _ in range(20))
    assert "xxxx" in shown


ALLOWED = re.compile(r'(?:[^<>]|<br>|<span class="[a-z0-9 ]+">|</span>)*')


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.text(max_size=10).map(lambda s: s.encode("utf-8", "surrogatepass")),
            st.from_regex(rb"\x1b[\[\]PX^_()#c78DMEH][0-9;:?<=>]{0,8}[@-~]", fullmatch=True),
        ),
        max_size=30,
    )
)
def test_whatever_is_written_becomes_rows_that_a_patch_takes(pieces: list[bytes]) -> None:
    terminal = Terminal(12, 4)
    shown = [row for piece in pieces for row in terminal.feed(piece)]
    for row in [*shown, *terminal.feed(b"", final=True), *terminal.rows(), *terminal.cut()]:
        assert ALLOWED.fullmatch(row)
        text("#row", row)
    terminal.feed(b"\x1bcstill here")
    assert terminal.rows()[0] == "still here"


def test_every_colour_has_its_classes() -> None:
    sheet = colours()
    assert all(f".f{n}{{" in sheet and f".g{n}{{" in sheet for n in range(16, 256))
