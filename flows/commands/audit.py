"""`audit`: what a trivial probe and a frozen baseline make of a published version."""

from flows.commands.console import Json, answer, quiet_output, remark
from flows.commands.versions import VersionDir


def audit_command(version_dir: VersionDir, as_json: Json = False) -> None:
    """Ask whether detectors could learn the editing, and which kinds are trivial or hopeless.

    The version is not touched: it keeps the audit that it was published with. A warning is no
    error, so the exit code is 0.
    """
    from pipeline.dataset.version import open_version
    from pipeline.reports.audit.run import audit
    from pipeline.reports.audit.text import as_text

    with quiet_output(as_json):
        version = open_version(version_dir)
        remark(f"{version.category} {version.name}: looking at its samples")
        found = audit(version)
    answer({"version_dir": str(version.dir.resolve()), **found}, as_json, as_text(found))
