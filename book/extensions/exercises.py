"""The directive `{exercise} newton_step`: an exercise of the chapter's assignment, described by its own record."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from autograder import exercises


class ExerciseDirective(SphinxDirective):
    """One graded exercise: name, points, difficulty, importance, minutes, known mistakes; the body says what to do.

    The numbers are read from the exercise's record, so that page, assignment and grader can't disagree.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Build the box; an unknown exercise is an error."""
        topic, name = Path(self.env.docname).parent.name, self.arguments[0].strip()
        records = {exercise.name: exercise for exercise in exercises.load(topic)}
        if name not in records:
            raise self.error(f"the assignment {topic} has no exercise {name!r}; it has {', '.join(records)}")
        exercise = records[name]
        for path in (Path(exercises.__file__).parent / topic).glob("*.py"):
            self.env.note_dependency(str(path))
        box = nodes.admonition(classes=["exercise"])
        box += nodes.title("", "", nodes.Text("Exercise "), nodes.literal("", name))
        self.state.nested_parse(self.content, self.content_offset, box)
        box += nodes.paragraph("", summary(exercise), classes=["exercise-facts"])
        return [box]


def summary(exercise: exercises.Exercise) -> str:
    """The facts of an exercise in one sentence each.

    >>> summary(exercises.load("second_order")[0]).split(",")[0]
    '4 points'
    """
    return (
        f"{exercise.points} points, difficulty {exercise.difficulty} of 5, importance {exercise.importance} of 5, "
        f"about {exercise.minutes} minutes. The check knows {len(exercise.misconceptions)} mistakes by name."
    )


def setup(app: Sphinx) -> dict:
    """Register the extension."""
    app.add_directive("exercise", ExerciseDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
