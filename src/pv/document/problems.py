"""The diagnostics of a document (PV101 to PV119): what stopped the reading, or what two readers would read apart."""

from __future__ import annotations

from typing import NamedTuple


class ProblemCode(NamedTuple):
    """What `pv explain` says of a code; the sentence of a finding is made where it is found."""

    title: str
    why: str
    fix: str


CODES: dict[str, ProblemCode] = {
    "PV101": ProblemCode(
        "the file cannot be read",
        "A path that is missing, a directory, a device, a pipe or closed to us holds no contract. It is never skipped "
        "in silence: a check that looked at nothing must not be green.",
        "Name a regular file that you may read.",
    ),
    "PV102": ProblemCode(
        "the file is too large",
        "Contracts are written by hand and stay under a few hundred kilobytes. A limit of 16 MiB keeps a stray data "
        "file from costing minutes and memory; its size is looked up before a byte is read.",
        "Split the contract, or take the file out of the selection.",
    ),
    "PV103": ProblemCode(
        "the file is not UTF-8",
        "Guessing an encoding changes what a claim says. YAML files of contracts are UTF-8, with or without a byte "
        "order mark.",
        "Convert the file, for instance with `iconv -f LATIN1 -t UTF-8`.",
    ),
    "PV104": ProblemCode(
        "a control character in the text",
        "YAML forbids them, NUL included: they hide text from people and end it for programs in C.",
        "Remove the character, or write it as an escape in a double-quoted string.",
    ),
    "PV105": ProblemCode(
        "the text is not YAML",
        "Past this place the parser cannot say what belongs to what, so nothing in the file is checked.",
        "Mend the syntax at the caret; an unquoted `: ` or ` #`, a tab, or an unclosed quote is the usual cause.",
    ),
    "PV106": ProblemCode(
        "not exactly one document",
        "A contract is one YAML document. Of several, some tools read the first and some the last; of none, nothing "
        "can be checked.",
        "Give each document its own file; remove the extra `---`.",
    ),
    "PV107": ProblemCode(
        "nested too deeply",
        "No contract nests 64 collections, and deeper ones crash readers that recurse.",
        "Flatten the structure.",
    ),
    "PV108": ProblemCode(
        "too many nodes",
        "A few lines of aliases can stand for billions of nodes. Aliases are shared, not copied, and a document that "
        "would come to more than the limit is refused while it is read.",
        "Write the data out, or take the file out of the selection.",
    ),
    "PV109": ProblemCode(
        "an alias that cannot be followed",
        "An alias stands for a node that is complete above it: a name that was never anchored has no value, and one "
        "inside its own anchor has no end.",
        "Anchor the node first (`&name`), or write the value out.",
    ),
    "PV110": ProblemCode(
        "a tag that contracts cannot have",
        "Tags of a language (`!!python/object`) make some readers construct objects, that is, run code. pv reads plain "
        "data and executes nothing.",
        "Remove the tag.",
    ),
    "PV111": ProblemCode(
        "a key occurs twice in one mapping",
        "Readers differ in which value they keep, and people read the first: one of the two is a claim that nobody "
        "checks.",
        "Rename or remove one of them.",
    ),
    "PV112": ProblemCode(
        "a key that is a collection or an alias",
        "JSON has only strings as keys, and so have contracts; a value cannot be named by a path otherwise.",
        "Use a string as the key.",
    ),
    "PV113": ProblemCode(
        "a merge key that cannot be merged",
        "`<<` copies the keys of a mapping, or of each mapping in a list. Anything else has no keys to copy.",
        "Write the keys out.",
    ),
    "PV114": ProblemCode(
        "a key that readers take for a number, a boolean or null",
        "Unquoted `1`, `true` or `null` as a key is text to some readers and not to others. pv takes the source text.",
        "Quote the key.",
    ),
    "PV115": ProblemCode(
        "a suppression that is not one",
        "`# pv: ignore[PV203] reason` needs the codes in brackets and a reason that a reviewer can judge. A comment "
        "that lacks one of them suppresses nothing.",
        "Write the codes and the reason.",
    ),
    "PV116": ProblemCode(
        "a line separator of old YAML",
        "U+0085, U+2028 and U+2029 end a line for readers of YAML 1.1 and are ordinary characters in YAML 1.2, so the "
        "same bytes are different data.",
        "Replace the character by a line feed or a space.",
    ),
    "PV117": ProblemCode(
        "a %YAML directive for another version",
        "pv reads every document by the core schema of YAML 1.2; a directive cannot change what `yes` means.",
        "Remove the directive, or write `%YAML 1.2`.",
    ),
    "PV118": ProblemCode(
        "a scalar that YAML 1.1 and 1.2 read differently",
        "`yes`, `1e-3`, `017` and `12:30:00` are a boolean, text, fifteen and 45,000 to one reader and text, a number, "
        "seventeen and text to the other. A threshold read wrongly is the worst defect a contract can have.",
        "Quote it, or write the number so that both agree (`1.0e-3`).",
    ),
    "PV119": ProblemCode(
        "a value cut off by ` #`",
        "A ` #` ends an unquoted value and begins a comment, so `see issue #12` is read as `see issue`.",
        "Quote the value.",
    ),
}
