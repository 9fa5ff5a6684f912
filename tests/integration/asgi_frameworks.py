"""Endpoints of other frameworks under Pulse; see `asgi_app`. APP says which one `application` is."""

import os

from asgi_app import lifespan, note, site, told
from bareasgi import Application, HttpResponse
from bareutils import text_writer
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse as DjangoResponse
from django.urls import path
from fastapi import FastAPI

from pulse import internal_only

fast = FastAPI(lifespan=lifespan)


@fast.get("/jobs/tick")
@internal_only
async def fast_tick():
    note("tick", told())
    return "ticked"


@fast.get("/jobs/plain")
@internal_only
def fast_plain():
    note("plain", told())
    return "ticked"


async def bare_tick(request):
    note("tick", told())
    return HttpResponse(200, [(b"content-type", b"text/plain")], text_writer("ticked"))


bare = Application()
bare.http_router.add({"GET"}, "/jobs/tick", internal_only(bare_tick))

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50)


@internal_only
def django_tick(request):
    note("tick", told())
    return DjangoResponse("ticked")


urlpatterns = [path("jobs/tick", django_tick)]
django = get_asgi_application()

application = site(globals()[os.environ["APP"]])
