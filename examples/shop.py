"""A small shop on WebOb: a catalogue, a cart that survives the login, login and logout everywhere.

gunicorn examples.shop:application
"""

import os
from decimal import Decimal
from html import escape

from webob import Request, Response
from webob.exc import HTTPBadRequest, HTTPException, HTTPNotFound, HTTPSeeOther

from sessionware import SessionMiddleware, get_session

CATALOGUE = {
    "beans": ("Coffee beans", "250 g, roasted on Mondays", Decimal("9.80")),
    "mill": ("Hand mill", "steel burrs, a good minute a cup", Decimal("64.00")),
    "filter": ("Paper filters", "a hundred of them", Decimal("4.50")),
    "cup": ("Cup", "stoneware, 200 ml", Decimal("14.00")),
}


def shop(environ, start_response):
    """Answer one request."""
    request = Request(environ)
    method = "GET" if request.method == "HEAD" else request.method
    page = PAGES.get((method, environ.get("PATH_INFO", "")))
    try:
        response = HTTPNotFound() if page is None else page(request)
    except HTTPException as refusal:
        response = refusal
    return response(environ, start_response)


def catalogue(request):
    """Show what there is."""
    rows = "".join(
        f"""<li><div><b>{name}</b><small>{text}</small></div><span>{price} €</span>
        <form method="post" action="/add"><button name="item" value="{item}">Add to cart</button></form></li>"""
        for item, (name, text, price) in CATALOGUE.items()
    )
    return page_of(request, "Catalogue", f"<ul>{rows}</ul>")


def add(request):
    """Put one more of an item into the cart; parallel requests lose none."""
    item = form_of(request).get("item")
    if item not in CATALOGUE:
        return HTTPBadRequest("There is no such item.")

    def one_more(values):
        cart = values.setdefault("cart", {})
        cart[item] = cart.get(item, 0) + 1

    get_session(request).atomic(one_more)
    return HTTPSeeOther(location="/cart")


def cart(request):
    """Show what is in the cart."""
    items = get_session(request).get("cart", {})
    if not items:
        return page_of(request, "Your cart", '<p>It is empty. <a href="/">Have a look around.</a></p>')
    rows = "".join(
        f"<li><div><b>{CATALOGUE[item][0]}</b><small>{count} x {CATALOGUE[item][2]} €</small></div>"
        f"<span>{count * CATALOGUE[item][2]} €</span></li>"
        for item, count in items.items()
    )
    total = sum(count * CATALOGUE[item][2] for item, count in items.items())
    empty = '<form method="post" action="/empty"><button class="quiet">Empty the cart</button></form>'
    return page_of(
        request, "Your cart", f"<ul>{rows}<li><div><b>Total</b></div><span>{total} €</span></li></ul>{empty}"
    )


def empty_cart(request):
    """Take everything out again."""
    get_session(request).pop("cart", None)
    return HTTPSeeOther(location="/cart")


def login_form(request):
    """Ask for a name; a real shop asks for a password too."""
    form = """<form method="post" action="/login"><label>Name <input name="name" required autofocus></label>
    <button>Log in</button></form>"""
    return page_of(request, "Log in", form)


def login(request):
    """Make the session the user's: new key, cart kept."""
    name = form_of(request).get("name", "").strip()
    if not name:
        return HTTPSeeOther(location="/login")
    try:
        get_session(request).login(name)
    except ValueError:
        return HTTPBadRequest("This cannot be a name.")
    return HTTPSeeOther(location="/cart")


def logout(request):
    """End this session, or all of the user's."""
    session = get_session(request)
    if "everywhere" in form_of(request) and session.user_id:
        application.store.revoke_user(session.user_id, keep=session.handle)
    session.logout()
    return HTTPSeeOther(location="/")


def form_of(request):
    """Return the texts of a form; files are none. Raises HTTPBadRequest."""
    try:
        return {name: value for name, value in request.POST.items() if isinstance(value, str)}
    except (ValueError, DeprecationWarning):  # WebOb's, of a torn form and of one that is not in UTF-8
        raise HTTPBadRequest("This form cannot be read.") from None


def page_of(request, title, content):
    """Return a whole page."""
    session = get_session(request)
    count = sum(session.get("cart", {}).values())
    if session.user_id is None:
        account = '<a href="/login">Log in</a>'
    else:
        account = f"""<span>{escape(session.user_id)}</span><form method="post" action="/logout">
        <button class="quiet">Log out</button><button class="quiet" name="everywhere">everywhere</button></form>"""
    return Response(
        f"""<!doctype html><html lang="en"><meta charset="utf-8">
        <meta name="viewport" content="width=device-width"><title>{title} · Corner shop</title><style>{STYLE}</style>
        <header><a href="/"><b>Corner shop</b></a><a href="/cart">Cart ({count})</a>{account}</header>
        <main><h1>{title}</h1>{content}</main></html>"""
    )


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: #222; background: #faf8f5 }
header { display: flex; flex-wrap: wrap; gap: .5em 1.5em; align-items: center; padding: 1em 2em;
background: #3d2b1f; color: #fff }
header a:first-child { margin-right: auto } header a { color: #fff; text-decoration: none }
header form { display: flex; gap: .5em } main { max-width: 40em; margin: 2em auto; padding: 0 1em }
ul { list-style: none; padding: 0 } small { display: block; color: #666 }
li { display: flex; gap: 1em; align-items: center; padding: .8em 0; border-bottom: 1px solid #e5ded5 }
li div { flex: 1 } button { font: inherit; padding: .3em .9em; border: 0; border-radius: 6px; background: #8b5a2b;
color: #fff; cursor: pointer; white-space: nowrap } button.quiet { background: #d8cfc4; color: #222 }
input { font: inherit; padding: .3em .5em; margin: 0 .5em }
"""

PAGES = {
    ("GET", "/"): catalogue,
    ("POST", "/add"): add,
    ("GET", "/cart"): cart,
    ("POST", "/empty"): empty_cart,
    ("GET", "/login"): login_form,
    ("POST", "/login"): login,
    ("POST", "/logout"): logout,
}

application = SessionMiddleware(shop, os.environ.get("SESSIONWARE_DATABASE", "sqlite:///sessions.db"))
