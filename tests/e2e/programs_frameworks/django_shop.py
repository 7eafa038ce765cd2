"""A Django project, by its WSGI application, where an order fails.

    DJANGO_SETTINGS_MODULE=... python -m tests.e2e.programs_frameworks.django_shop

Prints the answer's status and the event's id.
"""

from django.core.wsgi import get_wsgi_application
from django.urls import path

from tests.e2e.programs_frameworks.wsgi_call import call


class OrderFailed(Exception):
    pass


def take_order(request, number):
    raise OrderFailed(f"order {number}")


urlpatterns = [path("order/<int:number>/", take_order)]


def main():
    status, headers = call(get_wsgi_application(), "/order/7/")
    print(status, headers.get("X-Sentry-ID"))


if __name__ == "__main__":
    main()
