# nbgrader's configuration for this course. It is read by `nbgrader …` started in this folder, by the formgrader,
# and by `autograder`; a course root elsewhere loads it from its own nbgrader_config.py.
import sys
from pathlib import Path

# nbgrader knows nothing of the project that this folder lies in.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

c = globals()["c"]  # traitlets, which runs this file, puts it there
c.CourseDirectory.course_id = "steepest"
c.Autograde.sanitize_preprocessors = [
    "autograder.preprocessors.RepairFromRelease",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.DeduplicateIds",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [
    "autograder.preprocessors.ExecuteOutside",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "autograder.preprocessors.SaveJudgedGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.ExportApp.plugin_class = "autograder.export.GradeExport"
