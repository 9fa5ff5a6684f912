"""The window: status page, JSON, health and metrics, served by any process of the fleet.

It reads the run store and asks the scheduler; nothing below knows that it exists.
"""
