"""What must not be seen: pictures pass a hook, and lose what tells where they were taken, before they are stored or leave.

    append  Spool.append -> filter.py -> disk               nothing else was ever on it
    upload  Outbox.guarded -> filter.py -> disk -> far side  the output is stored once, then sent
    others  leaving.py                                       what `extract` and `report` read pictures through

rules.py says what holds for which unit, filter.py does it to one picture: program.py runs a command, picture.py rewrites what a
file says beside its pixels, position.py takes the position out of metadata. docs/privacy.md is the page for users.
"""
