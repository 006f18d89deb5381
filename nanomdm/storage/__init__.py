"""
What must outlive the process: enrollments, tokens, commands and results.
"""
