"""Examples of a supervised start: in an order that can be taken up anywhere."""

from itertools import islice

from megatron_oreal.coordinator.supervised import places


def test_the_order_goes_on_from_any_place_and_each_epoch_has_every_example_once():
    count, whole = 7, list(islice(places(7, seed=3), 70))
    epochs = [whole[start : start + count] for start in range(0, 70, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 5
    assert all(list(islice(places(7, seed=3, drawn=drawn), 70 - drawn)) == whole[drawn:] for drawn in range(70))
    assert list(islice(places(7, seed=4), 70)) != whole
