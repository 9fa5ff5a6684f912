"""Asynchronous and lazy WSGI: how an application is reached, here and in other processes."""
