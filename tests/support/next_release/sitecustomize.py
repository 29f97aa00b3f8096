"""Python reads this at its start where PYTHONPATH names its directory: the program is then the release after this one.

It knows one format more than this one, and writes this one's until `format` says otherwise.
"""

from canal import formats

formats.NEWEST += 1
