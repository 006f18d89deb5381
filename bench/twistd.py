"""
C{twistd} of the interpreter that runs this, wherever its script lies.
"""

from twisted.scripts.twistd import run

run()
