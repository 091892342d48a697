"""What alembic runs to apply steps; the connection, its transaction and its lock are the caller's (`upgrade`)."""

from alembic import context


def run() -> None:
    """Apply what alembic was asked for."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, transactional_ddl=True)
    context.run_migrations()


if __name__ == "env_py":  # the name under which alembic loads this file; imported as a module it does nothing
    run()
