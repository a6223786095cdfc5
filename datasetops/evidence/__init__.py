"""Exports of the record: what a dataset card, W3C PROV, OpenLineage, Croissant and an auditor's pack say of a version."""
