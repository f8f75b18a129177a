"""Chaos: what the service is for, shown while things break, with real processes.

    scenario       what breaks when, under which load, and what is expected of the service
    scenarios      all of them
    faults         each thing that can break, as a context: broken within, mended after
    expectations   how a recording is judged
    world          the processes: gateway, servers, PostgreSQL and the way to it, NATS, Prometheus
    hurry          the project's alerts, with minutes that are seconds
    run            one scenario from start to audit, which leaves a recording
    report         the recordings as one HTML page

It starts the very commands that people start. Nothing of the service imports it.
"""
