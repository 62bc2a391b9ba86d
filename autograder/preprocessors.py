"""What enters nbgrader's autograde by configuration: repair, execution outside, and scores from the judge."""

from pathlib import Path

from nbformat import from_dict
from nbgrader.preprocessors import NbGraderPreprocessor, SaveAutoGrades
from traitlets import Any

from autograder.assignment import current_assignment
from autograder.course import Course
from autograder.gate import grade_id, repair
from autograder.records import record_of, save

CHECK = "check_"


def course_of(preprocessor) -> Course:
    """The course root of the converter whose exporter holds this preprocessor."""
    return Course(Path(preprocessor.parent.parent.coursedir.root))


class RepairFromRelease(NbGraderPreprocessor):
    """Restores what nbgrader relies on from the released notebook, before stock sanitizing sees the submission."""

    def preprocess(self, nb, resources):
        assignment = current_assignment(course_of(self).root, resources["nbgrader"]["assignment"])
        admitted = repair(nb, assignment.release)
        resources["autograder"] = {"repairs": admitted.repairs}
        return admitted.notebook, resources


class ExecuteOutside(NbGraderPreprocessor):
    """Takes the place of nbgrader's Execute: cells run in a child process, hidden cases are judged outside it."""

    outcome = Any(None, help="An outcome reached before, for exactly this notebook").tag(config=True)

    def preprocess(self, nb, resources):
        outcome = self.outcome
        if outcome is None or outcome.sources != tuple(cell.source for cell in nb.cells):
            about = resources["nbgrader"]
            outcome = current_assignment(course_of(self).root, about["assignment"]).grade(nb)
            # No key: `autograder grade` will look at this submission itself.
            save(course_of(self), record_of(about["student"], about["assignment"], outcome))
        for count, (index, run) in enumerate(sorted(outcome.cells.items()), start=1):
            nb.cells[index].outputs = [from_dict(output) for output in run.outputs]
            nb.cells[index].execution_count = count
            verdict = outcome.verdicts.get((grade_id(nb.cells[index]) or "").removeprefix(CHECK))
            if verdict is not None and grade_id(nb.cells[index]).startswith(CHECK):
                text = {"output_type": "stream", "name": "stdout", "text": verdict.text + "\n"}
                # First, so that cutting off long outputs never takes it.
                nb.cells[index].outputs.insert(0, from_dict(text))
        resources["autograder"] = {"verdicts": outcome.verdicts}
        return nb, resources


class SaveJudgedGrades(SaveAutoGrades):
    """Scores the checks of our exercises from the judge's verdict, and everything else as nbgrader does."""

    def _verdict(self, cell, resources, prefix):
        name = cell.metadata.nbgrader["grade_id"]
        return (
            resources["autograder"]["verdicts"].get(name.removeprefix(prefix))
            if name.startswith(prefix)
            else None
        )

    def _add_score(self, cell, resources):
        verdict = self._verdict(cell, resources, CHECK)
        if verdict is None:
            super()._add_score(cell, resources)
            return
        # Not super(): the stock rule reads the cell's outputs, which the submission wrote.
        grade = self.gradebook.find_grade(
            cell.metadata.nbgrader["grade_id"], self.notebook_id, self.assignment_id, self.student_id
        )
        grade.auto_score = verdict.score
        grade.needs_manual_grade = grade.manual_score is not None
        self.gradebook.db.commit()

    def _add_comment(self, cell, resources):
        super()._add_comment(cell, resources)
        verdict = self._verdict(cell, resources, "")
        if verdict is not None:
            comment = self.gradebook.find_comment(
                cell.metadata.nbgrader["grade_id"], self.notebook_id, self.assignment_id, self.student_id
            )
            comment.auto_comment = " ".join(filter(None, [comment.auto_comment, verdict.text]))
            self.gradebook.db.commit()
