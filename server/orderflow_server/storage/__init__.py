"""Keeps orders durably: one engine that shares commits, a dialect per database.

opening.py   which database an address means
address.py   where the orders are kept; shows no password
store.py     what the domain uses: reads go to the dialect, writes through the engine
engine.py    gathers commands that wait at the same time into batches; knows no SQL
commands.py  the writes there are, and what each results in
dialect.py   what the engine and the store need of a database
sqlite/      the dialect for one machine
postgres/    the dialect for any number of processes
migrations/  the schema, in steps; alembic is loaded only to take one
apart.py     taking them in a process of their own, which takes alembic's memory with it
"""
