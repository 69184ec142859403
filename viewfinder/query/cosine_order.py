"""The order of hits by the cosine of one vector, in which a page continues after a score."""

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from viewfinder.client.requests import MAX_HITS
from viewfinder.query.cursor import Place, mark
from viewfinder.query.steps import HitPage, RankingSteps
from viewfinder.store.records import StoredHit
from viewfinder.store.search import Search

# Two searches may score a point differently by this much: the store adds the products in float32 in another order.
# Measured with 20,000 pairs of unit vectors of 1,152 numbers, added in 1 to 64 lanes: at most 1.9e-6.
_NOISE = 2e-6
# Extra hits read before and after the end of the last page, to allow for points deleted since.
_SLACK = 30
# Hits near the last score that a cursor marks one by one. More of them are copies of one image, and come in the order
# of their ids.
_MAX_MARKED = 256
_ALL_SHOWN = "~"  # after every id


def by_cosine(search: Search, place: Place | None) -> RankingSteps:
    """Hits of one vector by cosine, from `search.offset` or after `place`."""
    if place is None:
        return (yield from _first_by_cosine(search))
    equal_to = None if place.after is None else place.score
    page, following = yield from _next_by_cosine(search, place, equal_to)
    if following is not None and len(following.marks) > _MAX_MARKED and following.after in (None, _ALL_SHOWN):
        page, following = yield from _next_by_cosine(search, place, page[-1].score)
    return HitPage((yield from _with_payloads(search, page)), None, following)


def _first_by_cosine(search: Search) -> RankingSteps:
    limit, offset = search.limit, search.offset
    skipped, equal_to = min(offset, _SLACK), None
    (hits,) = yield [replace(search, offset=offset - skipped, limit=skipped + limit + 1)]
    if offset > skipped and len(hits) > skipped and _is_equal(hits[0], hits[skipped].score):
        # More hits before `offset` may have the same score: read them all, to skip those with the first ids.
        equal_to = hits[skipped].score
        start, window, _ = yield from _read_around(search, Place(offset, score=equal_to), equal_to)
        hits, skipped = _by_score(window, equal_to), offset - start
    page = hits[skipped : skipped + limit]
    # A hit before `offset` may have the last hit's score: mark it, so that it does not follow on the next page.
    before = hits[:skipped] if equal_to is None else []
    place = Place(offset, frozenset(mark(hit.id) for hit in before), before[-1].score if before else None)
    following = _place_after(page, place, equal_to) if len(hits) > skipped + limit else None
    return HitPage(page if equal_to is None else (yield from _with_payloads(search, page)), None, following)


def _next_by_cosine(
    search: Search, place: Place, equal_to: float | None
) -> Generator[Sequence[Search], Any, tuple[list[StoredHit], Place | None]]:
    """The page after a place, and its end; hits with the score `equal_to` come in the order of their ids."""
    _, _, unseen = yield from _read_around(search, place, equal_to)
    page = _by_score(unseen, equal_to)[: search.limit]
    return page, _place_after(page, place, equal_to) if len(unseen) > search.limit else None


def _read_around(
    search: Search, place: Place, equal_to: float | None
) -> Generator[Sequence[Search], Any, tuple[int, list[StoredHit], list[StoredHit]]]:
    """An offset before a place, the hits from there on, and those among them that no page has shown.

    There are more than `search.limit` of the latter if the order has as many; with `equal_to` they include all hits of
    this score.
    """
    start = max(0, place.position - _SLACK)
    size = place.position - start + search.limit + 1 + _SLACK
    with_payload = equal_to is None
    while True:
        (window,) = yield [replace(search, offset=start, limit=size, with_payload=with_payload)]
        with_payload = False  # longer windows are read for their order alone
        unseen = [hit for hit in window if not _is_shown(hit, place)]
        ends_too_early = len(unseen) <= search.limit or (equal_to is not None and _is_equal(window[-1], equal_to))
        if start > 0 and not (window and window[0].score > _score_of(place) + _NOISE):
            # Many points before this place were deleted, or share its score: the window may begin too late.
            earlier = max(0, start - 4 * size)
            start, size = earlier, size + start - earlier
        elif ends_too_early and len(window) == size and start + size < MAX_HITS * 2:
            # Many points were added before this place, or share its score. The bound ends the reads of one page.
            size *= 2
        else:
            return start, window, unseen


def _is_shown(hit: StoredHit, place: Place) -> bool:
    """True for a hit before a place.

    A hit that was shown had at least the score of the place, one that was not shown at most that score, each give or
    take the noise. So only the marks tell them apart where the scores are nearly equal.
    """
    score = _score_of(place)
    if hit.score > score + _NOISE:
        return True
    if place.after is not None and _is_equal(hit, score):
        return hit.id <= place.after or mark(hit.id) in place.marks
    lowest_shown = score if place.after is None else score - 2 * _NOISE  # see `_place_after`
    return hit.score >= lowest_shown - _NOISE and mark(hit.id) in place.marks


def _place_after(page: list[StoredHit], before: Place, equal_to: float | None) -> Place | None:
    """The place at the end of a page; None where pages end."""
    position = before.position + len(page)
    if not page or position >= MAX_HITS:
        return None
    last = page[-1]
    # Hits equal to `equal_to` have no marks. Until the last hit is so far below that their scores, less the noise, are
    # above its score plus the noise, the place stays at `equal_to`.
    if equal_to is not None and last.score >= equal_to - 2 * _NOISE:
        score, after = equal_to, last.id if _is_equal(last, equal_to) else _ALL_SHOWN
        shown = [hit for hit in page if not _is_equal(hit, equal_to)]
    else:
        # A hit shown before may have had a lower score than the last one of this page.
        score, after, shown = min(last.score, _score_of(before)), None, page
    # A hit with a higher score is not below the place's score plus the noise in another search.
    highest_marked = score + 2 * _NOISE
    marks = frozenset(mark(hit.id) for hit in shown if hit.score <= highest_marked)
    return Place(position, marks | before.marks if _score_of(before) <= highest_marked else marks, score, after)


def _score_of(place: Place) -> float:
    return math.inf if place.score is None else place.score


def _is_equal(hit: StoredHit, score: float) -> bool:
    return abs(hit.score - score) <= _NOISE


def _by_score(hits: list[StoredHit], equal_to: float | None) -> list[StoredHit]:
    """Hits in their order, but those with the score `equal_to` in the order of ids."""
    if equal_to is None:
        return hits
    equal = sorted((hit for hit in hits if _is_equal(hit, equal_to)), key=lambda hit: hit.id)
    above = [hit for hit in hits if hit.score > equal_to + _NOISE]
    below = [hit for hit in hits if hit.score < equal_to - _NOISE]
    return above + equal + below


def _with_payloads(search: Search, hits: list[StoredHit]) -> Generator[Sequence[Search], Any, list[StoredHit]]:
    """The hits with their payloads, which those of a longer window lack; without points deleted since."""
    if not (bare := [hit.id for hit in hits if not hit.payload]):
        return hits
    (found,) = yield [Search(vector=search.vector, using=search.using, only=bare, limit=len(bare))]
    payloads = {hit.id: hit.payload for hit in found}
    return [replace(hit, payload=hit.payload or payloads[hit.id]) for hit in hits if hit.payload or hit.id in payloads]
