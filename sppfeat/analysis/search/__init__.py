"""Search for the rows nearest to a descriptor, exactly.

Queries go in, which are images, boxes of images or rows, together with a selection of an open file; the nearest rows
come out with their distances and with what the file says of them. The search itself must not know images or networks:
only ``queries`` describes images, with the settings that the file records, and loads torch when it has to.
"""
