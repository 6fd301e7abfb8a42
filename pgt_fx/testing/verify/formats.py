"""A verification as Markdown and as JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree

from pgt_fx.testing.verify.checks import Check, Findings, figure


def to_markdown(found: Findings) -> str:
    """A heading, a table with one row for each check, and what to look at."""
    lines = [
        f"### {found.model}: {found.summary}",
        "",
        f"Measured on {found.setting}.",
        "",
        "| check | result | measured | bound | promise |",
        "|---|---|---|---|---|",
    ]
    for c in found.checks:
        result = f"**{c.word}**" if c.ok is False or c.error else c.word
        cells = (c.id, result, figure(c.measured), figure(c.bound), c.sentence)
        lines.append("| " + " | ".join(_cell(x) for x in cells) + " |")
    rest = [c for c in found.checks if c.ok is not True]
    if rest:
        lines += ["", *(f"- `{c.id}`: {_text(c)}" for c in rest)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _text(c: Check) -> str:
    return "; ".join(x for x in (c.detail, f"look at {c.where}" if c.where else "") if x)


def to_junit(found: Findings) -> str:
    """One test suite for the model; a violated check is a failure, one that ended in an error an
    error, and one that says nothing is skipped.

    Where nothing could be checked, the check that says why is an error, as a suite of skips would
    count as passed; and so is one that is required.
    """
    blamed = found.unanswered
    if not found.decided and not found.errors and not blamed:
        blamed = found.silent[:1]
    suite = ElementTree.Element(
        "testsuite",
        name=f"pgt_fx {found.model}",
        tests=str(len(found.checks)),
        failures=str(len(found.violations)),
        errors=str(len(found.errors) + len(blamed)),
        skipped=str(len(found.silent) - len(blamed)),
    )
    properties = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(properties, "property", name="setting", value=found.setting)
    for c in found.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=found.model, name=c.id)
        figures = ElementTree.SubElement(case, "properties")
        for name in ("measured", "bound"):
            value = getattr(c, name)
            if value != "":
                ElementTree.SubElement(figures, "property", name=name, value=str(value))
        if c.ok is False:
            element = ElementTree.SubElement(case, "failure", message=f"{c.sentence}: {_text(c)}")
            element.text = str(c)
        elif c.error:
            element = ElementTree.SubElement(case, "error", message=f"{c.sentence}: {_text(c)}")
            element.text = str(c)
        elif c in blamed:
            element = ElementTree.SubElement(case, "error", message=found.summary)
            element.text = str(c)
        elif c.ok is None:
            ElementTree.SubElement(case, "skipped", message=c.detail)
        else:
            ElementTree.SubElement(case, "system-out").text = str(c)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
