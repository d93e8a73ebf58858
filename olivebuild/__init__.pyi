from olivebuild.api.event import Event as Event
from olivebuild.core.errors import BuildError as BuildError
from olivebuild.library.project import Project as Project
from olivebuild.library.project import open as open  # noqa: A004
from olivebuild.library.results import Plan as Plan
from olivebuild.library.results import PlannedTarget as PlannedTarget
from olivebuild.library.results import Report as Report
from olivebuild.library.results import Result as Result
from olivebuild.library.results import Target as Target

__version__: str
__all__: list[str]
