"""`anomalysmith audit`: the shortcut and detectability audits of a published version."""

from flows.commands.console import Json, print_note, print_result, stdout_to_stderr
from flows.commands.versions import VersionDir


def audit_command(version_dir: VersionDir, as_json: Json = False) -> None:
    """Check for shortcuts: can editing artifacts be learned, which kinds are trivial or hopeless?

    The version is not changed and keeps the audit that it was published with. Warnings are no
    error: the exit code is 0.
    """
    from pipeline.dataset.version import open_version
    from pipeline.reports.audit.run import audit
    from pipeline.reports.audit.text import as_text

    # The audit may take a minute, so say that it has begun.
    with stdout_to_stderr(as_json):
        version = open_version(version_dir)
        print_note(f"{version.category} {version.name}: analysing its samples")
        found = audit(version)
    print_result({"version_dir": str(version.dir.resolve()), **found}, as_json, as_text(found))
