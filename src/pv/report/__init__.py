"""Reports: tables for the terminal, HTML, plots.

Enters: results of the rooms below. Leaves: text and files for people.
"""
