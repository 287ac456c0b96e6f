"""The report of a run and its pictures."""

from plm.report.page import loss_picture, write_report

__all__ = ["loss_picture", "write_report"]
