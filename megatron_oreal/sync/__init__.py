"""The road of the weights into the engines, station by station:

gather (ranks -> whole tensors, in buckets) -> carry (one is on its way while the next is gathered) -> deliver (broadcast, disk, or
hand_over, before which stages bring each other theirs along routes) -> prove (checksums). The publisher reads pause, send, prove, continue.
"""
