"""What becomes of files that are worked on when one fails, or the user wants an end."""

import threading

import pytest

from weights.parallel import Parallel, Stopped


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_the_others_end_and_what_waits_is_not_begun(error: type[BaseException]) -> None:
    parallel = Parallel(lambda _: None)
    begun: list[int] = []
    stopped: list[int] = []
    four_began = threading.Barrier(4)

    def work(item: int) -> None:
        begun.append(item)
        if item < 4:
            four_began.wait(60)
        if item == 0:
            raise error
        try:
            parallel.wait(60)
        except Stopped:
            stopped.append(item)
            parallel.advance(1)

    with pytest.raises(error):
        parallel.run(work, range(100))

    # The thread of the one that failed may have begun another before that was seen.
    assert {1, 2, 3} <= set(stopped)
    assert len(begun) <= 5
    with pytest.raises(Stopped):
        parallel.advance(1)


def test_results_are_in_the_order_of_the_items() -> None:
    assert Parallel(lambda _: None).run(lambda item: -item, range(50)) == [-n for n in range(50)]
