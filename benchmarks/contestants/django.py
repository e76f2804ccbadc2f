"""Django with its SessionMiddleware and database backend, and Django without sessions.

Django's settings are those of the process: one of these contestants a process.
"""

from typing import Any
from wsgiref.types import WSGIApplication

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from sqlalchemy import URL, make_url

from ..workloads import act

ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql"}
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"


def build(name: str, url: str) -> WSGIApplication:
    """Return the application; `django-age0` has the default of one connection a request."""
    database = make_url(url)
    if database.drivername == "mysql+pymysql":
        _offer_pymysql()
    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="not a secret here",
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=[] if name == "django-nosess" else [SESSIONS],
        DATABASES={"default": _database(database, max_age=0 if name == "django-age0" else None)},
    )
    django.setup()
    call_command("migrate", verbosity=0)
    application: WSGIApplication = get_wsgi_application()
    return application


def _database(url: URL, *, max_age: int | None) -> dict[str, Any]:
    return {
        "ENGINE": f"django.db.backends.{ENGINES[url.get_backend_name()]}",
        "NAME": url.database,
        "USER": url.username or "",
        "HOST": url.host or "",
        "PORT": url.port or "",
        "CONN_MAX_AGE": max_age,
    }


def _offer_pymysql() -> None:
    import pymysql

    pymysql.version_info = (2, 2, 7, "final", 0)  # Django asks for this mysqlclient at least
    pymysql.install_as_MySQLdb()


def untouched(request: HttpRequest) -> HttpResponse:
    """Leave the session alone."""
    return HttpResponse(b"ok", content_type="text/plain")


def touched(request: HttpRequest) -> HttpResponse:
    """Do what the path asks for."""
    return HttpResponse(act(request.path, request.session), content_type="text/plain")


urlpatterns = [re_path("^$", untouched), re_path("", touched)]
