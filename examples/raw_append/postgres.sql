-- The raw append loop: what PostgreSQL can do with the rows of one-to-one sends and nothing else.
-- One send is 1 message, 2 heads and 2 entries; a transaction has `batch` sends and one statement.
-- It runs inside the database, without round trips. Use an empty database of its own:
--   psql DATABASE -f postgres.sql -c '\timing' -c 'CALL raw_append(64, 1000)'
-- sends/s = batch * batches / seconds. CALL raw_append(1, 2000) once before: the first is slower.

CREATE TABLE message (
    id bigint PRIMARY KEY,
    sender_type smallint NOT NULL, sender_id bigint NOT NULL, sender_device_id bigint NOT NULL,
    receiver_type smallint NOT NULL, receiver_id bigint NOT NULL, to_user_ids bytea NOT NULL,
    type smallint NOT NULL, content bytea NOT NULL, send_time bigint NOT NULL,
    status smallint NOT NULL, client_message_id bytea, digest bytea NOT NULL,
    UNIQUE (sender_type, sender_id, client_message_id)
);
CREATE TABLE timeline_head (
    owner_type smallint, owner_id bigint, seq bigint NOT NULL,
    PRIMARY KEY (owner_type, owner_id)
);
CREATE TABLE timeline_entry (
    owner_type smallint, owner_id bigint, seq bigint, message_id bigint NOT NULL,
    PRIMARY KEY (owner_type, owner_id, seq),
    UNIQUE (message_id, owner_type, owner_id)
);

-- At most 2,000 in a batch: the users of a batch, of 4,000, differ.
CREATE PROCEDURE raw_append(batch integer, batches integer) LANGUAGE plpgsql AS $$
DECLARE
    first bigint := (SELECT coalesce(max(id), 0) + 1 FROM message);
BEGIN
    FOR turn IN 1..batches LOOP
        WITH send AS MATERIALIZED (
            SELECT first + n AS id, 2 * ((first + n) % 2000) AS sender,
                   2 * ((first + n) % 2000) + 1 AS receiver
            FROM generate_series(0, batch - 1) n
        ), owner AS MATERIALIZED (
            SELECT id, sender AS owner_id FROM send UNION ALL SELECT id, receiver FROM send
        ), head AS (
            INSERT INTO timeline_head AS h SELECT 1, owner_id, 1 FROM owner ORDER BY owner_id
            ON CONFLICT (owner_type, owner_id) DO UPDATE SET seq = h.seq + 1
            RETURNING h.owner_id, h.seq
        ), sent AS (
            INSERT INTO message SELECT id, 1, sender, 1, 1, receiver, '', 1,
                convert_to(repeat('x', 200), 'UTF8'), 0, 0, NULL, convert_to(repeat('x', 32), 'UTF8')
            FROM send
        )
        INSERT INTO timeline_entry SELECT 1, owner_id, seq, id FROM owner JOIN head USING (owner_id);
        COMMIT;
        first := first + batch;
    END LOOP;
END $$;
