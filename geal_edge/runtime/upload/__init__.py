"""Sending what was selected: from the outbox of a spool to a far side, over links that come and go.

    outbox.next -> link: may it be sent now? -> frames, context, sidecars into the store -> outbox.acknowledge
                                             -> or a failure: later, set aside, or stop

uploader.py is the place to start reading. store.py says what a far side is; folder.py and objects.py are the two there are.
"""
