"""Imports what an audit imports in its course, and runs nothing: processes are forked from one that has done so."""

from importlib import import_module

from audit.catalog import all_probes

for name in ("timm", "audit.cli.app", "audit.cli.run", "audit.cli.verdict", "audit.engine.prepare", "reports.html"):
    import_module(name)
PROBES = all_probes()
