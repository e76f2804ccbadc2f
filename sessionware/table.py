"""The sessions table, and every statement that is ever run on it.

There is no upsert: it would bring ended sessions back to life.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from .errors import ConfigurationError
from .keys import MAX_LOOKED_UP
from .record import HOUR, Record, purge_hour
from .statement import Statement, positional

TABLE_NAME = "sessionware_session"

_is_name = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}").fullmatch

# Byte-exact on every engine and collation: binary for digests, ASCII for data. MariaDB would cut
# a plain TEXT at 64 KB without a word.
_DIGEST = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
_DATA = sa.Text().with_variant(mysql.LONGTEXT(charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
_USER_ID = sa.String(255).with_variant(
    mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)


# Whatever the defaults of the server: others know no transactions, or no index on a user_id of this length.
_INNODB: Any = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("row_format", "DYNAMIC"))
}

# PostgreSQL compresses what is longer than 2 KB: with its default method that is most of the cost of a
# save of 20 KB, with LZ4 a tenth of it. Builds without LZ4, and versions before 14, keep their default.
_LZ4 = """DO $$ BEGIN
    ALTER TABLE %(fullname)s ALTER COLUMN data SET COMPRESSION lz4;
EXCEPTION WHEN OTHERS THEN NULL;
END $$"""


def make_table(metadata: sa.MetaData, name: str = TABLE_NAME) -> sa.Table:
    """Return the sessions table in *metadata*, for migration tools; *name*: at most 40 letters, digits, underscores.

    Raises ConfigurationError for another name.
    """
    if not isinstance(name, str) or not _is_name(name):
        raise ConfigurationError("table_name must be letters, digits and underscores, at most 40 of them.")
    user_id = sa.Column("user_id", _USER_ID)
    of_somebody = user_id.is_not(None)
    table = sa.Table(
        name,
        metadata,
        sa.Column("digest", _DIGEST, primary_key=True, comment="SHA-256 of the session key"),
        sa.Column("format", sa.SmallInteger, nullable=False, comment="which codec wrote data"),
        sa.Column("revision", sa.BigInteger, nullable=False, comment="random; a save must find it unchanged"),
        user_id,
        sa.Column("created_at", sa.BigInteger, nullable=False, comment="epoch seconds, of creation or login"),
        sa.Column("used_at", sa.BigInteger, nullable=False, comment="epoch seconds"),
        sa.Column("expires_at", sa.BigInteger, nullable=False, comment="epoch seconds; dead from then on"),
        sa.Column("purge_hour", sa.Integer, nullable=False, comment="expires_at in hours, for the purge"),
        sa.Column("expiry", sa.BigInteger, comment="null: default; 0: browser; n: seconds; -n: until n"),
        # Last: what stood behind it would lie on its last page, and a save of a large session would write two.
        sa.Column("data", _DATA, comment="tagged JSON; null: not a session but a mark"),
        # Visitors who are nobody have no entry, and cost no write there; MySQL has no partial indexes.
        sa.Index(f"ix_{name}_user_id", user_id, postgresql_where=of_somebody, sqlite_where=of_somebody),
        sa.Index(f"ix_{name}_purge_hour", "purge_hour"),
        **_INNODB,
    )
    ddl: Any = sa.DDL  # its signature has no types
    sa.event.listen(table, "after_create", ddl(_LZ4).execute_if(dialect="postgresql"))
    return table


def numbered(digests: Sequence[bytes], count: int) -> dict[str, Any]:
    """Name *digests* for a statement that takes *count* of them; the last one fills the empty places."""
    return {f"digest_{i}": digests[min(i, len(digests) - 1)] for i in range(count)}


_NAMES = [f"p_{name}" for name in Record._fields]


def row_of(digest: bytes, record: Record) -> dict[str, Any]:
    """Name what a whole row is made of."""
    values: dict[str, Any] = dict(zip(_NAMES, record, strict=True))
    values["p_digest"] = digest
    values["p_purge_hour"] = purge_hour(record.expires_at)
    return values


def row_over(digest: bytes, new_digest: bytes, record: Record, base: int, now: int) -> dict[str, Any]:
    """Name what stores *record* under *new_digest* over the live row under *digest*, whose revision is *base*."""
    values = row_of(new_digest, record)
    values["digest"], values["base"], values["now"] = digest, base, now
    return values


def values_over(digest: bytes, record: Record, base: int, now: int) -> dict[str, Any]:
    """Name as much of that as a plain save needs."""
    return {
        "p_data": record.data,
        "p_revision": record.revision,
        "p_used_at": record.used_at,
        "p_expires_at": record.expires_at,
        "digest": digest,
        "base": base,
        "now": now,
    }


def _unqualified(table: sa.Table) -> Any:
    """Return the columns of *table* as attributes, without its name before theirs: MySQL parses every text anew."""
    return SimpleNamespace(**{column.name: sa.column(column.name, column.type) for column in table.columns})


def _p(name: str, type_: Any = None) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=type_ or sa.BigInteger)


_MARKED = ("revision", "user_id", "used_at", "expires_at", "purge_hour", "expiry")
_OVERWRITTEN = ("data", "revision", "used_at", "expires_at")
_SAVED = ("data", "format", "revision", "used_at", "expires_at", "purge_hour", "expiry")


def _record_of(c: Any, dialect: sa.Dialect) -> tuple[list[Any], Callable[[Sequence[Any]], Record]]:
    """Return the columns by which a record is read, and what makes one of such a row.

    PyMySQL takes 7 us for each column, whatever is in it: there all but the values come as one text, and
    a read takes 106 us instead of 130. The drivers in C have nothing to gain.
    """
    if dialect.driver != "pymysql":
        return [getattr(c, name) for name in Record._fields], partial(tuple.__new__, Record)  # _make, in C
    blank: Any = sa.literal_column("' '")
    nothing: Any = sa.literal_column("'-'")  # not '', which is null in one mode of MariaDB
    numbers = (c.format, c.revision, c.created_at, c.used_at, c.expires_at, sa.func.ifnull(c.expiry, nothing))
    return [c.data, sa.func.concat_ws(blank, *numbers, c.user_id)], _unpacked  # it leaves out a user_id that is null


def _unpacked(row: Sequence[Any]) -> Record:
    data, text = row
    form, revision, created_at, used_at, expires_at, rest = text.split(" ", 5)
    expiry, _, user_id = rest.partition(" ")
    times = int(created_at), int(used_at), int(expires_at)
    return Record(data, int(form), int(revision), user_id or None, *times, None if expiry == "-" else int(expiry))


class Statements:
    """The statements on one table, compiled once for one dialect. Values are named ``p_column``.

    *in_memory*: SQLite keeps no log (WAL) that would have to be copied back.
    """

    def __init__(self, table: sa.Table, dialect: sa.Dialect, *, in_memory: bool) -> None:
        self._table = table
        self._c = c = _unqualified(table)
        self._dialect = positional(dialect)
        self._has_log = dialect.name == "sqlite" and not in_memory
        self._for_counts: dict[tuple[int, str], Statement] = {}
        self._everything = {column.name: _p(f"p_{column.name}", column.type) for column in table.columns}
        self._here = c.digest == _p("digest", c.digest.type)
        # The one meaning of "live": what authenticates a request, can be saved, listed and revoked.
        self._live = sa.and_(c.expires_at > _p("now"), c.data.is_not(None))
        self._unchanged = sa.and_(self._here, self._live, c.revision == _p("base"))
        self._expired = c.expires_at <= _p("now")
        self._moved = sa.and_(c.data.is_(None), c.expires_at > _p("now"))
        self._make_reading()
        self._make_writing()
        self._make_touching()
        self._make_listing()
        self._make_revoking()
        self._make_purging()

    def _make_reading(self) -> None:
        c, (record, self.as_record) = self._c, _record_of(self._c, self._dialect)
        self.load = self._make(self._select(*record).where(self._here))
        offered = self._digests(MAX_LOOKED_UP)
        self.load_any = self._make(self._select(c.digest, *record).where(c.digest.in_(offered)))
        self.lock = self._make(self._select(*record).where(self._here).with_for_update())

    def _make_writing(self) -> None:
        table = self._table
        self.insert = self._make(sa.insert(table).values(self._everything))
        self.overwrite = self._make(sa.update(table).values(self._only(_OVERWRITTEN)).where(self._unchanged))
        newest = {name: self._later(name) for name in ("used_at", "expires_at")}
        aside = sa.update(table).values(self._only(_OVERWRITTEN) | newest).where(self._unchanged)
        self.overwrite_aside = self._make(aside)
        self.update = self._make(sa.update(table).values(self._only(_SAVED)).where(self._unchanged))
        self.rotate = self._make(sa.update(table).values(self._everything).where(self._unchanged))
        self.delete = self._make(sa.delete(table).where(self._here, table.c.data.is_not(None)))

    def _make_touching(self) -> None:
        c = self._c
        times = self._only(("used_at", "expires_at"))
        unseen = c.used_at == _p("seen_at")
        self.touch = self._make(sa.update(self._table).values(times).where(self._unchanged, unseen))
        limit, end = c.created_at + _p("absolute"), _p("now") + _p("idle")
        # Without having read the row: so only where its end, and the cookie's, is known beforehand.
        self.touch_unseen = self._make(
            sa.update(self._table)
            .values(used_at=_p("now"), expires_at=end)
            .where(self._here, self._live, c.expiry.is_(None), c.used_at <= _p("now"), end <= limit)
        )

    def _make_listing(self) -> None:
        c = self._c
        self.list_by_user = self._make(
            self._select(c.digest, c.user_id, c.created_at, c.used_at, c.expires_at)
            .where(self._mine(), self._live)
            .order_by(c.used_at.desc())
        )
        self.count = self._make(self._select(sa.func.count()).where(self._live))
        self.list_page = self._make(
            self._select(c.digest)
            .where(c.digest > _p("after", c.digest.type), c.data.is_not(None))
            .order_by(c.digest)
            .limit(_p("size", sa.Integer))
        )

    def _make_revoking(self) -> None:
        table, c = self._table, self._c
        in_range = c.digest.between(_p("low", c.digest.type), _p("high", c.digest.type))
        self.delete_range = self._make(sa.delete(table).where(in_range, self._live))
        self.lock_range = self._make(self._select(c.user_id, c.data).where(in_range).with_for_update())
        self.find_successor = self._make(self._select(c.user_id).where(in_range, self._moved))
        self.delete_user = self._make(sa.delete(table).where(self._mine(), c.data.is_not(None), sa.not_(in_range)))
        self.renew_mark = self._make(sa.update(table).values(self._only(_MARKED)).where(self._here))
        finished = sa.update(table).values(self._only(("expiry",)))
        both = c.digest.in_(self._digests(2))
        self.finish_mark = self._make(finished.where(both, c.revision == _p("base")))
        record, _ = _record_of(c, self._dialect)
        self.lock_marks = self._make(self._select(c.digest, *record).where(both).order_by(c.digest).with_for_update())
        mark = self._select(c.revision, c.expiry, c.expires_at, c.user_id)
        self.find_marks = self._make(mark.where(c.digest.in_(self._digests(3))))

    def _make_purging(self) -> None:
        c, hour = self._c, _p("hour", sa.Integer)
        # SQLite has whoever writes next copy a long log back, unless the one who wrote it does.
        checkpoint = self._make(sa.text("PRAGMA wal_checkpoint(PASSIVE)"))
        self.checkpoint = checkpoint if self._has_log else None
        self.count_expired = self._make(self._select(sa.func.count()).where(c.purge_hour <= hour, self._expired))
        self.list_due = self._make(
            self._select(c.digest, c.expires_at)
            .where(c.purge_hour <= hour, sa.or_(self._expired, c.purge_hour < hour))
            .order_by(c.purge_hour)
            .limit(_p("size", sa.Integer))
        )

    def delete_all_of(self, count: int) -> Statement:
        """Return the statement that deletes the sessions among *count* digests, ``digest_0`` and so on, and no mark."""
        sessions = self._c.data.is_not(None)
        return self._for_many(count, "all", lambda those: sa.delete(self._table).where(those, sessions))

    def find_moved_of(self, count: int) -> Statement:
        """Return the statement that finds those of *count* digests that a rotation has left not long ago."""
        digest = self._c.digest
        return self._for_many(count, "moved", lambda those: self._select(digest).where(those, self._moved))

    def delete_expired_of(self, count: int) -> Statement:
        """Return the statement that deletes those of *count* digests that have expired."""
        return self._for_many(count, "expired", lambda those: sa.delete(self._table).where(those, self._expired))

    def postpone_all_of(self, count: int) -> Statement:
        """Return the statement that gives *count* digests the purge hour of their present expiry."""
        c = self._c
        hour = sa.cast(c.expires_at // HOUR, sa.Integer)
        return self._for_many(
            count, "postponed", lambda those: sa.update(self._table).values(purge_hour=hour).where(those)
        )

    def _for_many(self, count: int, what: str, clause: Callable[[Any], sa.ClauseElement]) -> Statement:
        made = self._for_counts.get((count, what))
        if made is None:
            those = self._c.digest.in_(self._digests(count))
            made = self._for_counts[count, what] = self._make(clause(those))
        return made

    def _select(self, *columns: Any) -> sa.Select[Any]:
        return sa.select(*columns).select_from(self._table)

    def _later(self, name: str) -> sa.Case[Any]:
        old, new = getattr(self._c, name), self._everything[name]
        return sa.case((old > new, old), else_=new)

    def _only(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: self._everything[name] for name in names}

    def _mine(self) -> Any:
        user_id = self._c.user_id
        return user_id == _p("user_id", user_id.type)

    def _digests(self, count: int) -> list[Any]:
        return [_p(f"digest_{i}", self._c.digest.type) for i in range(count)]

    def _make(self, clause: sa.ClauseElement) -> Statement:
        return Statement(clause, self._dialect)
