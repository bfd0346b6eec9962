"""The command line: one file per verb; what a verb needs beyond the standard library is imported when it runs."""
