"""Reading what vehicles have sent (`status`, `list`, `report` and `extract` of a URL).

    store.list -> vehicle/trip/name -> sidecars, of which cache.py has those that were read before -> Fleet

reading.py is the place to start; frames.py checks what somebody else wrote; standing.py adds up.
"""
