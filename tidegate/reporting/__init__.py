"""Reporting: plots and self-contained HTML pages."""
