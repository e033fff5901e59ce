-- The raw append loop: what MariaDB can do with the rows of one-to-one sends and nothing else.
-- One send is 1 message, 2 heads and 2 entries; a transaction has `batch` sends and three
-- statements. It runs inside the database, without round trips. Use an empty database of its own:
--   mariadb DATABASE < mariadb.sql
--   time mariadb DATABASE -e 'CALL raw_append(64, 1000)'
-- sends/s = batch * batches / seconds. CALL raw_append(1, 2000) once before: the first is slower.

CREATE TABLE message (
    id bigint PRIMARY KEY,
    sender_type smallint NOT NULL, sender_id bigint NOT NULL, sender_device_id bigint NOT NULL,
    receiver_type smallint NOT NULL, receiver_id bigint NOT NULL, to_user_ids varbinary(1024) NOT NULL,
    type smallint NOT NULL, content blob NOT NULL, send_time bigint NOT NULL,
    status smallint NOT NULL, client_message_id varbinary(64), digest varbinary(32) NOT NULL,
    UNIQUE (sender_type, sender_id, client_message_id)
) ENGINE = InnoDB;
CREATE TABLE timeline_head (
    owner_type smallint, owner_id bigint, seq bigint NOT NULL,
    PRIMARY KEY (owner_type, owner_id)
) ENGINE = InnoDB;
CREATE TABLE timeline_entry (
    owner_type smallint, owner_id bigint, seq bigint, message_id bigint NOT NULL,
    PRIMARY KEY (owner_type, owner_id, seq),
    UNIQUE (message_id, owner_type, owner_id)
) ENGINE = InnoDB;

-- At most 2,000 in a batch: the users of a batch, of 4,000, differ.
DELIMITER //
CREATE PROCEDURE raw_append(batch integer, batches integer)
BEGIN
    DECLARE first bigint;
    DECLARE turn integer DEFAULT 0;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SELECT coalesce(max(id), 0) + 1 INTO first FROM message;
    WHILE turn < batches DO
        START TRANSACTION;
        INSERT INTO timeline_head
            SELECT 1, 2 * ((first + n.seq) % 2000) + side.seq, 1
            FROM seq_0_to_1999 n JOIN seq_0_to_1 side WHERE n.seq < batch ORDER BY 2
            ON DUPLICATE KEY UPDATE timeline_head.seq = timeline_head.seq + 1;
        INSERT INTO message
            SELECT first + seq, 1, 2 * ((first + seq) % 2000), 1, 1, 2 * ((first + seq) % 2000) + 1,
                '', 1, repeat('x', 200), 0, 0, NULL, repeat('x', 32)
            FROM seq_0_to_1999 WHERE seq < batch;
        INSERT INTO timeline_entry
            SELECT 1, head.owner_id, head.seq, first + n.seq
            FROM seq_0_to_1999 n JOIN seq_0_to_1 side
            JOIN timeline_head head ON head.owner_type = 1
                AND head.owner_id = 2 * ((first + n.seq) % 2000) + side.seq
            WHERE n.seq < batch;
        COMMIT;
        SET first = first + batch, turn = turn + 1;
    END WHILE;
END //
DELIMITER ;
