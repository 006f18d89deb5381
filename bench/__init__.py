"""
What the server costs: run C{python -m bench}.
"""
