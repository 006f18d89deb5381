"""
What C{nanomdmctl doctor} looks at.  Nothing here changes anything; everything blocks,
for a while at most.
"""
