"""Are workers found that wait for each other at different places, and only those?"""

from __future__ import annotations

import contextlib

import pytest

from tfdist.cluster.places import Place, Whereabouts, parted, parted_sentence


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ({0: Place(), 1: Place()}, ""),
        ({0: Place(3, "steps of fit"), 1: Place(3, "steps of fit")}, ""),
        ({0: Place(4, "an agreement of fit"), 1: Place(3, "steps of fit")}, ""),  # one is slow
        (
            {0: Place(4, "the beginning of predict"), 1: Place(4, "steps of fit"),
             2: Place(4, "steps of fit"), 3: Place(3, "steps of fit")},
            "worker 0 is at the beginning of predict, and workers 1-2 at steps of fit",
        ),
    ],
)
def test_who_has_parted(places, text):
    assert parted(places) == text
    assert text in parted_sentence(places)


def test_what_a_worker_does_alone_does_not_count():
    here = Whereabouts()
    with here.inside("fit"):
        here.come_to("steps")
        with here.inside("predict", is_shared=False):
            here.come_to("steps")
        assert here.place == Place(1, "steps of fit", "steps 1")
        with here.inside("predict"):
            assert here.come_to("steps") == Place(2, "steps of predict inside of fit", "steps 2")
    assert here.come_to("an agreement").doing == "an agreement"


def test_the_names_of_calls_make_no_other_kind_and_their_depth_does():
    def tag(*calls):
        here = Whereabouts()
        with contextlib.ExitStack() as stack:
            for call in calls:
                stack.enter_context(here.inside(call))
            return here.come_to("an agreement").tag

    assert tag("fit") == tag("predict")  # which is compared when they begin
    assert tag("fit") != tag("fit", "predict")


def test_a_loop_that_is_given_up_leaves_the_calls_as_they_are():
    here = Whereabouts()
    loop = here.inside("")
    loop.__enter__()
    with here.inside("fit"):
        loop.__exit__(None, None, None)
        assert here.come_to("steps").doing == "steps of fit"
