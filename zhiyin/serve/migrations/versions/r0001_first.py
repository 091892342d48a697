"""The first tables: jobs with their texts and what is searched, hotword lists, tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make everything."""
    _jobs()
    _of_jobs()
    _others()
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE job_grams USING fts5(grams, content='', detail=none, columnsize=0, tokenize='ascii')"
        )
        return
    op.create_table(
        "job_grams",
        sa.Column("number", sa.BigInteger(), sa.ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
        sa.Column("grams", sa.ARRAY(sa.BigInteger()), nullable=False),
    )
    op.execute("ALTER TABLE job_grams SET (toast_tuple_target = 128)")  # arrays are kept apart, see serve.search.array
    op.create_index("ix_job_grams_grams", "job_grams", ["grams"], postgresql_using="gin")


def downgrade() -> None:
    """Remove everything."""
    for name in ("tokens", "hotword_lists", "job_grams", "job_words", "job_texts", "jobs"):
        op.drop_table(name)


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("batch", "file_name")),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("audio", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("tasks", "language")),
        sa.Column("itn", sa.Boolean()),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("progress_s", sa.Float(), nullable=False),
        *(sa.Column(name, TIME) for name in ("started_at", "finished_at")),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("model", "model_hash", "backend", "device", "precision", "labels")
        ),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("processing_s", "real_time_factor")),
        sa.Column("error", sa.Text(), nullable=False),
        *(sa.Column(name, TIME) for name in ("edited_at", "deleted_at")),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_user_number", "jobs", ["user", "number"])
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"])
    op.create_index("ix_jobs_batch_number", "jobs", ["batch", "number"])
    is_open, is_deleted = sa.text("state IN ('queued', 'running')"), sa.text("deleted_at IS NOT NULL")
    op.create_index("ix_jobs_open", "jobs", ["state", "number"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("ix_jobs_deleted", "jobs", ["number"], sqlite_where=is_deleted, postgresql_where=is_deleted)


def _of_jobs() -> None:
    op.create_table(
        "job_texts",
        _number(),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("wish", "text", "written")),
        sa.Column("edited", sa.Text()),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("answer", "translation", "hotwords", "segments", "result")
        ),
    )
    op.create_table("job_words", _number(), sa.Column("words", sa.Text(), nullable=False))


def _number() -> sa.Column[int]:
    job = sa.ForeignKey("jobs.number", ondelete="CASCADE")
    return sa.Column("number", NUMBER, job, primary_key=True, autoincrement=False)


def _others() -> None:
    op.create_table(
        "hotword_lists",
        *(sa.Column(name, sa.Text(), primary_key=True) for name in ("user", "name")),
        sa.Column("text", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("num_words", "num_rules")),
        sa.Column("updated_at", TIME, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        *(sa.Column(name, TIME) for name in ("last_used_at", "revoked_at")),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
    )
