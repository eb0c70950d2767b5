"""Where a peer is as careful as the judge and yet faster: the cells in which the judge does not beat it."""

import math
from collections.abc import Iterator, Sequence

from bench.grid import Row
from bench.peers import PEERS

CAREFUL = 0.01  # false rollbacks, over the good cells with the same noise and traffic


def beaten_by(own: Sequence[Row], rows: Sequence[Row]) -> Iterator[tuple[Row, list[tuple[Row, bool]]]]:
    """Each of the judge's bad cells, the careful peers' rows there, and whether the judge is at least as fast.

    Compared is the mean time until the rollback, a missed one counted as the rest of the rollout.
    """
    careful = {
        (peer.name, service) for service in _services(rows) for peer in PEERS if _careful(peer.name, service, rows)
    }
    peers = {peer.name for peer in PEERS}
    by_cell: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == "bad" and row.judge in peers and (row.judge, service_of(row.cell)) in careful:
            by_cell.setdefault(row.cell, []).append(row)
    for row in own:
        if row.kind == "bad":
            others = [other for other in by_cell.get(row.cell, []) if other.false <= CAREFUL]
            yield row, [(other, delay(row) <= delay(other)) for other in others]


def service_of(cell: str) -> tuple[str, ...]:
    """Noise and traffic, from a cell's name: kind, effect, noise, traffic, and what else there is to it."""
    return tuple(cell.split("; ")[1:3])


def delay(row: Row) -> float:
    """Mean seconds from the onset to the rollback or the end of the rollout."""
    caught = 0.0 if math.isnan(row.mean) else row.mean
    return (1.0 - row.missed) * caught + row.missed * (2400.0 - (900.0 if " from 900 s;" in row.cell else 0.0))


def _services(rows: Sequence[Row]) -> set[tuple[str, ...]]:
    return {service_of(row.cell) for row in rows if row.kind == "bad"}


def _careful(peer: str, service: tuple[str, ...], rows: Sequence[Row]) -> bool:
    good = [row for row in rows if row.kind == "good" and row.judge == peer and service_of(row.cell) == service]
    number = sum(row.rollouts for row in good)
    return number > 0 and sum(row.false * row.rollouts for row in good) <= CAREFUL * number
