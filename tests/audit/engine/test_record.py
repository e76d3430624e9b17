import pytest

from audit.cli.verdict import summary
from audit.engine.record import in_doubt, reproducible
from audit.schema import Diagnostic, ProbeResult, Report, RunRecord, Status

SAID = Diagnostic(code="evaluation", text="Evaluation RELIABLE: all passed.", severity="info", conclusion=True)
RESULT = ProbeResult(
    probe="toy", version=1, status=Status.MEASURED, device="cpu", diagnostics=(SAID, Diagnostic(code="x", text="Odd."))
)


def test_what_decides_no_fact_is_left_out_of_the_command():
    words = "-v run --model timm:x --out a --policy=p.toml --fresh --data d --policy q.toml --out=b"

    assert reproducible(words.split()) == ("run", "--model", "timm:x", "--data", "d")


@pytest.mark.parametrize("code", ["nondeterministic", "batch_dependent", "stateful"])
def test_what_a_probe_concludes_from_answers_that_are_not_the_subject_s_is_doubted(code):
    found = in_doubt(RESULT, [Diagnostic(code=code, text="answers change")])
    assert found.status is Status.INCONCLUSIVE
    first, second = found.diagnostics
    assert first.text == f"Void, as the subject's answers are not repeatable, is what came out: {SAID.text}"
    assert first.severity == "warning"
    assert second == RESULT.diagnostics[1]
    assert in_doubt(RESULT, [Diagnostic(code="saturated", text="odd")]) == RESULT


def test_what_a_probe_concludes_stands_on_the_terminal_and_notes_do_not():
    quiet = RESULT.model_copy(
        update={"diagnostics": (*RESULT.diagnostics, SAID.model_copy(update={"conclusion": False, "text": "Aside."}))}
    )
    record = RunRecord.model_construct(results=(quiet,), cards=())
    lines = summary(Report.model_construct(record=record, gate=None)).splitlines()
    assert lines[1:] == ["  Evaluation RELIABLE: all passed.", "  warning: Odd."]
