"""`python -m orderflow_server` is `orderflow-server`."""

from orderflow_server.cli import main

main()
