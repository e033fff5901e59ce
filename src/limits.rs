//! Every bound of the server in one place. Relations between bounds are asserted when the code is
//! compiled, so that a change that breaks one does not build.

use std::time::Duration;

/// Longest body of one frame in bytes: what a 2-byte length prefix can say.
pub const FRAME_BODY_BYTES_MAX: usize = 65_535;
/// Longest `message_content` in bytes.
pub const CONTENT_BYTES_MAX: usize = 60_000;
/// Most users one message may mention.
pub const MENTIONS_MAX: usize = 100;
/// Longest `client_message_id` in bytes.
pub const CLIENT_MESSAGE_ID_BYTES_MAX: usize = 64;

/// Longest nickname in bytes.
pub const NICKNAME_BYTES_MAX: usize = 128;
/// Longest avatar URL in bytes.
pub const AVATAR_URL_BYTES_MAX: usize = 1_024;
/// Longest `extra` in bytes, of a user, a group, a member or a friend.
pub const EXTRA_BYTES_MAX: usize = 2_048;
/// Longest name of a group in bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 256;
/// Longest introduction of a group in bytes.
pub const INTRODUCTION_BYTES_MAX: usize = 2_048;
/// Longest remarks on a friend or a member, in bytes.
pub const REMARKS_BYTES_MAX: usize = 512;
/// Longest text that comes with asking to be friends, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 2_048;
/// Most users one call may add to a group.
pub const GROUP_CALL_USERS_MAX: usize = 1_000;
/// Most members in one page of a group's members.
pub const MEMBERS_PAGE_MAX: usize = 500;
/// Most users one `PushToUsers` reaches.
pub const PUSH_USERS_MAX: usize = 100_000;
/// Longest text field that describes a device (brand, model, versions), in bytes.
pub const DEVICE_TEXT_BYTES_MAX: usize = 128;
/// Longest phone number in characters: a plus sign and 15 digits (ITU-T E.164).
pub const PHONE_NUMBER_BYTES_MAX: usize = 16;
/// Fewest characters of a password.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Most characters of a password.
pub const PASSWORD_CHARS_MAX: usize = 128;
/// Longest search key in bytes.
pub const SEARCH_KEY_BYTES_MAX: usize = 128;
/// Most users one search returns.
pub const SEARCH_RESULTS_MAX: u64 = 50;

/// Most messages in one page of a sync.
pub const PAGE_MESSAGES_MAX: usize = 50;
/// Most groups one `SyncInput` may ask for.
pub const SYNC_GROUPS_MAX: usize = 5_000;

/// Largest varint, in bytes.
const VARINT_MAX: usize = 10;
/// Everything around a message's variable fields: tags, lengths, ids, times, enums of `Message`
/// (14 fields), `Sender`, `MessageSend` or `SyncOutput` with `GroupSync`, and `Output`, each
/// counted as a two-byte tag and a full varint.
const ENVELOPE_BYTES_MAX: usize = 32 * (2 + VARINT_MAX);
/// The largest message as it is delivered, with its sender's profile.
pub const DELIVERED_BYTES_MAX: usize = CONTENT_BYTES_MAX
    + MENTIONS_MAX * VARINT_MAX
    + CLIENT_MESSAGE_ID_BYTES_MAX
    + NICKNAME_BYTES_MAX
    + AVATAR_URL_BYTES_MAX
    + EXTRA_BYTES_MAX
    + ENVELOPE_BYTES_MAX;
const _: () = assert!(
    DELIVERED_BYTES_MAX <= FRAME_BODY_BYTES_MAX,
    "the largest message must fit one frame, pushed or as a page of its own"
);

/// Most bytes of messages in one page; what remains of the frame is for the page's own fields
/// (`has_more`, `epoch`, `reset`) and one `GroupSync` header per group.
pub const PAGE_BYTES_MAX: usize = FRAME_BODY_BYTES_MAX - 256;
const _: () = assert!(DELIVERED_BYTES_MAX <= PAGE_BYTES_MAX);

/// Bytes a connection reads ahead of what it has handled.
pub const READ_AHEAD_BYTES_MAX: usize = 2 * (FRAME_BODY_BYTES_MAX + 14);
/// Frames that wait behind a request of the same connection; beyond it the socket is not read.
pub const BACKLOG_FRAMES_MAX: usize = 256;
/// Bytes of those frames, but for the last one.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024;
/// Sends of one connection that wait for their commit; beyond it the socket is not read.
pub const SENDS_IN_FLIGHT_MAX: usize = 256;
/// Bytes a connection may hold that are not written yet; beyond it nothing is pulled from feeds.
pub const WRITE_BUFFER_BYTES_MAX: usize = 64 * 1024;
const _: () = assert!(READ_AHEAD_BYTES_MAX > FRAME_BODY_BYTES_MAX);
const _: () = assert!(WRITE_BUFFER_BYTES_MAX > FRAME_BODY_BYTES_MAX);
/// How many times the allowed frames per second a connection may send at once.
pub const FRAME_BURST_FACTOR: u64 = 2;
/// How long a connection may stay over its rate before it is told 10003 and closed.
pub const FRAME_EXCESS_MAX: Duration = Duration::from_secs(10);
/// How long a closing connection may take to write its last frames.
pub const CLOSE_LINGER_MAX: Duration = Duration::from_secs(2);
/// As [`CLOSE_LINGER_MAX`], in a drain: well below the shortest `delivery.drain_timeout_s`.
pub const DRAIN_LINGER_MAX: Duration = Duration::from_millis(500);

/// Longest time between two sessions that a drain tells to go: at least 50 a second.
pub const RELEASE_INTERVAL_MAX: Duration = Duration::from_millis(20);
/// What remains of a drain when the last session is told to go, where its timeout is long enough: for
/// the answer to a send that has just come, for closing, and a second for what ends after the sessions.
pub const DRAIN_RESERVE: Duration = Duration::from_secs(11);
const _: () = assert!(
    SEND_DEADLINE.as_millis() + DRAIN_LINGER_MAX.as_millis() + 1_000 <= DRAIN_RESERVE.as_millis()
);
/// How often a drain looks for sessions that have come since it began.
pub const DRAIN_SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Most frames one feed keeps in its ring.
pub const RING_FRAMES_MAX: usize = 1_024;
/// Most bytes one feed keeps in its ring.
pub const RING_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all rings of the instance together.
pub const RINGS_BYTES_MAX: usize = 24 * 1024 * 1024;
const _: () = assert!(RING_BYTES_MAX <= RINGS_BYTES_MAX);
/// Bytes that a ring may hold whatever all rings hold together, where nothing else has what it
/// drops: for everyone, and in a room. Each such ring is held by a connection that does not read,
/// and takes no more than that may leave unwritten.
pub const RING_FLOOR_BYTES: usize = 64 * 1024;
const _: () = assert!(DELIVERED_BYTES_MAX < RING_FLOOR_BYTES);
const _: () = assert!(RING_FLOOR_BYTES <= RING_BYTES_MAX);
const _: () = assert!(RING_FLOOR_BYTES <= WRITE_BUFFER_BYTES_MAX);
const _: () = assert!(RING_BYTES_MAX > DELIVERED_BYTES_MAX);
/// How long a feed waits for the entries that a gap misses before it reads them.
pub const GAP_WAIT: Duration = Duration::from_millis(20);
/// Heads of timelines that one query reads, of the sweep or for feeds that are opened.
pub const SWEEP_CHUNK: usize = 500;

/// Messages and news that wait to be published to other instances.
pub const BRIDGE_QUEUE_MAX: usize = 65_536;
/// Bytes of those.
pub const BRIDGE_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Messages and news that one command publishes: Redis does nothing else meanwhile.
pub const BRIDGE_BATCH_MAX: usize = 256;
/// Bytes of those, but for the last one.
pub const BRIDGE_BATCH_BYTES_MAX: usize = 256 * 1024;
const _: () = assert!(BRIDGE_BATCH_BYTES_MAX <= BRIDGE_QUEUE_BYTES_MAX);
/// A larger message that stands on many timelines is published for the first of them only, and for
/// the others just that it is there.
pub const BRIDGE_SMALL_BYTES: usize = 4 * 1024;
/// For so many of them.
pub const BRIDGE_COPIES_MAX: usize = 8;
/// How long a stop waits for what is still to be published or written to Redis.
pub const BRIDGE_STOP_MAX: Duration = Duration::from_millis(500);
/// How long Redis may take to publish a batch.
pub const BRIDGE_PUBLISH_TIMEOUT: Duration = Duration::from_millis(500);
/// Messages from Redis that wait to be offered to feeds; their slots take about 2 KiB each, as the
/// client keeps several such queues.
pub const BRIDGE_INBOX_MAX: usize = 4_096;
/// Channels of one command that subscribes.
pub const BRIDGE_SUBSCRIBE_CHUNK: usize = 1_000;
/// How long Redis may take to confirm subscriptions, answer a heartbeat or take a connection.
pub const REDIS_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a connection to Redis is tried. As long may it go unnoticed that a Redis Cluster has
/// moved slots, and ended the subscriptions there, or that a server has become a replica.
pub const REDIS_HEARTBEAT: Duration = Duration::from_secs(5);
/// The first pause before another attempt to connect to Redis; each is twice as long.
pub const REDIS_BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// The longest one.
pub const REDIS_BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// Time between two reports to other instances that something could not be published.
pub const HINTS_LOST_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two reports, of whatever kind, that hints may have been missed: each makes this
/// instance forget what it remembers and compare everything with the database.
pub const DISCONTINUITY_INTERVAL: Duration = Duration::from_secs(1);
/// Rest between two comparisons of all feeds that cannot wait for the sweep.
pub const HURRY_INTERVAL: Duration = Duration::from_secs(1);
/// The longest pause before what could not be compared with the database is compared again.
pub const COMPARE_AGAIN_MAX: Duration = Duration::from_secs(4);
/// Time between two log lines about something that a peer does again and again.
pub const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Devices whose sessions are compared with the database one by one; more, and all are.
pub const DOUBTED_DEVICES_MAX: usize = 10_000;
/// Time between two looks at sessions on their way in that must be compared with the database.
pub const DOUBT_INTERVAL: Duration = Duration::from_millis(50);

/// How long an instance counts as there after it last said so.
pub const PRESENCE_LEASE: Duration = Duration::from_secs(15);
/// How often it says so.
pub const PRESENCE_RENEWAL: Duration = Duration::from_secs(5);
const _: () = assert!(
    PRESENCE_RENEWAL.as_millis() + 2 * REDIS_TIMEOUT.as_millis() < PRESENCE_LEASE.as_millis()
);
/// How long the entry of a device stays that nobody renews; that of a living instance is renewed
/// several times meanwhile.
pub const PRESENCE_ENTRY_TTL: Duration = Duration::from_secs(3_600);
/// Renewals of an instance in which all of its entries are renewed once.
pub const PRESENCE_REFRESH_RENEWALS: usize = 120;
const _: () = assert!(
    3 * PRESENCE_REFRESH_RENEWALS as u64 * PRESENCE_RENEWAL.as_secs()
        <= PRESENCE_ENTRY_TTL.as_secs()
);
/// Entries that one command writes.
pub const PRESENCE_CHUNK: usize = 256;
/// Devices, beside those that are here, of which it is remembered that they have left and Redis does
/// not know yet; beyond it the instance takes another name, under which it never had them.
pub const PRESENCE_CHANGES_MAX: usize = 10_000;
/// How long the answer to PT_SUBSCRIBE_ROOM waits for other instances to know.
pub const PRESENCE_WAIT: Duration = Duration::from_millis(500);

/// Rows (entries) of one transaction of the writer.
pub const BATCH_ROWS_MAX: usize = 2_048;
/// Sends of one transaction of the writer.
pub const BATCH_SENDS_MAX: usize = 512;
/// Bytes of content of one transaction of the writer.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Rows that wait for the writer.
pub const WRITER_QUEUE_ROWS_MAX: usize = 65_536;
/// Bytes of content that wait for the writer.
pub const WRITER_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Rows of one sender that wait for the writer: a quarter, so that one does not fill it alone.
pub const WRITER_QUEUE_ROWS_PER_SENDER_MAX: usize = WRITER_QUEUE_ROWS_MAX / 4;
const _: () = assert!(BATCH_ROWS_MAX <= WRITER_QUEUE_ROWS_PER_SENDER_MAX);
const _: () = assert!(CONTENT_BYTES_MAX <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= WRITER_QUEUE_BYTES_MAX);
/// Timelines that one transaction of a large job appends to.
pub const LARGE_JOB_CHUNK: usize = 1_000;
/// Chunks of large jobs that wait for the writer.
pub const LARGE_JOBS_WAITING_MAX: usize = 64;
/// Batches of other senders after which a chunk of a large job has its turn, however many wait.
pub const LARGE_JOB_TURN: usize = 4;
/// Most messages that announce one change of a group.
pub const ANNOUNCEMENTS_MAX: usize = 256;
/// The largest member in an event that announces him: his profile, without remarks and extra, which
/// he has none of yet. Nine fields, each counted as a two-byte tag and a full varint.
const ADDED_MEMBER_BYTES_MAX: usize =
    NICKNAME_BYTES_MAX + AVATAR_URL_BYTES_MAX + EXTRA_BYTES_MAX + 9 * (2 + VARINT_MAX);
/// Bytes of members in one event; what remains of the content is for the rest of the event (who did
/// it, in which group) and the command around it, six fields in all.
pub const EVENT_MEMBERS_BYTES_MAX: usize =
    CONTENT_BYTES_MAX - NICKNAME_BYTES_MAX - 6 * (2 + VARINT_MAX);
const _: () = assert!(
    // The creator is announced besides those he names; in a large group each event goes to the
    // group's timeline and, once more, to those it names.
    2 * (GROUP_CALL_USERS_MAX + 1).div_ceil(EVENT_MEMBERS_BYTES_MAX / ADDED_MEMBER_BYTES_MAX)
        <= ANNOUNCEMENTS_MAX,
    "the most members of one call, with the largest profiles, must be announced"
);
/// Message ids taken from the database at once.
pub const MESSAGE_ID_BLOCK: i64 = 10_000;
const _: () = assert!(BATCH_SENDS_MAX as i64 <= MESSAGE_ID_BLOCK);
/// Sign-ins on the long connection in one transaction.
pub const SIGN_IN_BATCH_MAX: usize = 512;
/// Additions to large groups that a session remembers until it has come past them.
pub const JOINS_PENDING_MAX: usize = 64;
/// Sessions that load their user's memberships at the same time, because these have changed.
pub const MEMBERSHIP_LOADS_MAX: usize = 2;
/// Users whose large groups one query of a sign-in reads.
pub const SIGN_IN_USERS_CHUNK: usize = 32;
/// Sign-ins that wait for their transaction.
pub const SIGN_IN_QUEUE_MAX: usize = 32_768;
/// Acks written in one statement.
pub const ACK_BATCH_MAX: usize = 500;
/// How often acks are written.
pub const ACK_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// A send is answered within this time, with an error where it could not be stored.
pub const SEND_DEADLINE: Duration = Duration::from_millis(9_500);
/// How long the writer goes on retrying one batch.
pub const BATCH_DEADLINE: Duration = Duration::from_secs(8);
const _: () = assert!(BATCH_DEADLINE.as_millis() < SEND_DEADLINE.as_millis());
/// How long a call waits for the database before it answers 10004.
pub const DATABASE_DEADLINE: Duration = Duration::from_secs(6);
/// How long a writer connection waits for a lock another process holds.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// One attempt at a transaction, and one commit, of the writer: whoever does not answer by then was cut
/// off without a word.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(4);
const _: () = assert!(LOCK_TIMEOUT.as_millis() < ATTEMPT_MAX.as_millis());
const _: () = assert!(ATTEMPT_MAX.as_millis() < DATABASE_DEADLINE.as_millis());
/// Sends that wait aside because another instance holds a lock that they need.
pub const SET_ASIDE_MAX: usize = 4_096;
/// Bytes of their contents.
pub const SET_ASIDE_BYTES_MAX: usize = WRITER_QUEUE_BYTES_MAX / 4;
/// Between two looks whether such locks are free.
pub const TAKE_UP_INTERVAL: Duration = Duration::from_millis(200);
/// An open transaction that does nothing for so long is ended by the database server: its instance
/// hangs, and holds locks.
pub const IDLE_TRANSACTION_MAX: Duration = Duration::from_secs(5);
/// Connections to a database server that are kept for the writer, acks and sign-ins.
pub const WRITER_CONNECTIONS_MAX: u32 = 4;
/// A connection to a database server that has rested so long is tried before it is used.
pub const DATABASE_PING_AFTER: Duration = Duration::from_secs(1);
/// Until a connection that is tried must have answered.
pub const DATABASE_PING_MAX: Duration = Duration::from_millis(1_000);
/// A connection to a database server that rests for so long is closed: before MySQL does, which is
/// told to do so after [`IDLE_TRANSACTION_MAX`].
pub const DATABASE_CONNECTION_IDLE_MAX: Duration = Duration::from_secs(4);
const _: () = assert!(DATABASE_CONNECTION_IDLE_MAX.as_millis() < IDLE_TRANSACTION_MAX.as_millis());
/// How long a starting instance waits for the place of one that has just died.
pub const PLACE_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long a starting instance waits for another one that migrates the database.
pub const SCHEMA_WAIT_MAX: Duration = Duration::from_secs(300);
/// As [`PLACE_SILENCE_MAX`], for the session that holds the right to migrate: a migration that is given
/// up may have to be mended by hand.
pub const SCHEMA_SILENCE_MAX: Duration = Duration::from_secs(60);
const _: () = assert!(SCHEMA_SILENCE_MAX.as_millis() < SCHEMA_WAIT_MAX.as_millis());
/// Between two looks whether an instance's place on the database is still its own.
pub const PLACE_PING_INTERVAL: Duration = Duration::from_secs(2);
/// A session that holds a place and was silent for so long is ended by the database server.
pub const PLACE_SILENCE_MAX: Duration = Duration::from_secs(8);
const _: () = assert!(2 * PLACE_PING_INTERVAL.as_millis() < PLACE_SILENCE_MAX.as_millis());
/// How long an instance that has lost its place waits for it: its own former session may hold it.
pub const PLACE_AGAIN_MAX: Duration = Duration::from_secs(15);
const _: () = assert!(PLACE_SILENCE_MAX.as_millis() < PLACE_AGAIN_MAX.as_millis());
/// `/readyz` answers within this time.
pub const READY_DEADLINE: Duration = Duration::from_millis(1_500);

/// Connections that wait to be accepted, per listener.
pub const LISTEN_BACKLOG: u32 = 4_096;
/// How long a listener rests when the process or the machine has no room for a connection.
pub const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// Time between two log lines about failing accepts.
pub const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Longest PROXY protocol header that is read, in bytes. The addresses take 52; the rest is room for
/// what load balancers add to them (ids of a cloud's endpoints, names from a client's certificate),
/// which is skipped. The protocol allows 64 KiB, and a receiver to refuse what is large.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 * 1024;
/// How long a load balancer may take to send that header, which is the first thing it sends; or as long
/// as a sign-in may take, where that is less. The protocol asks for 3 seconds at least, in which a lost
/// packet is sent once more.
pub const PROXY_HEADER_MAX: Duration = Duration::from_secs(5);
/// How long an HTTP client may take to send the head of a request.
pub const HTTP_HEAD_MAX: Duration = Duration::from_secs(10);
/// How long an HTTP connection may stay open before its first request.
pub const HTTP_FIRST_REQUEST_MAX: Duration = Duration::from_secs(30);
const _: () = assert!(HTTP_HEAD_MAX.as_millis() < HTTP_FIRST_REQUEST_MAX.as_millis());
/// How long an HTTP client may take nothing of what is sent to it.
pub const HTTP_WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// Bytes of an HTTP/1.1 connection's buffer; the head of a request must fit.
pub const HTTP_BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request that are read after its answer is known, so that its client comes to read it.
pub const REQUEST_REST_BYTES_MAX: usize = 1024 * 1024;
/// How long that may take.
pub const REQUEST_REST_MAX: Duration = Duration::from_secs(1);
const _: () =
    assert!(GRPC_SEND_MAX.as_millis() + REQUEST_REST_MAX.as_millis() < HTTP_DRAIN_MAX.as_millis());
/// How long a browser need not ask again what a page of an allowed origin may send; browsers cap it.
pub const PREFLIGHT_CACHED_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// Bytes of an HTTP/2 request's headers.
pub const HTTP2_HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Requests at the same time on one HTTP/2 connection.
pub const HTTP2_STREAMS_MAX: u32 = 128;
/// Bytes one HTTP/2 stream may send before they are taken.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes one HTTP/2 connection may send before they are taken.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Time between two pings on a quiet HTTP/2 connection.
pub const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long an HTTP/2 ping may stay unanswered.
pub const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `im healthcheck` waits for an answer.
pub const HEALTHCHECK_DEADLINE: Duration = Duration::from_secs(3);
const _: () = assert!(READY_DEADLINE.as_millis() < HEALTHCHECK_DEADLINE.as_millis());
/// File descriptors below which a start is logged as a warning: each connection takes one.
pub const OPEN_FILES_LOW: u64 = 65_536;
/// How long stuck blocking work may hold the process once everything else has ended.
pub const RUNTIME_LINGER_MAX: Duration = Duration::from_secs(1);

/// Bytes of a token that the business issues; it must fit a request's head.
pub const FOREIGN_TOKEN_BYTES_MAX: usize = 8 * 1024;
const _: () = assert!(FOREIGN_TOKEN_BYTES_MAX < HTTP_BUFFER_BYTES_MAX);
const _: () = assert!(FOREIGN_TOKEN_BYTES_MAX < HTTP2_HEADER_BYTES_MAX as usize);
/// Authorizations kept in memory.
pub const CREDENTIALS_CACHED_MAX: u64 = 100_000;
/// Profiles kept in memory.
pub const PROFILES_CACHED_MAX: u64 = 100_000;
/// Groups whose members are kept in memory.
pub const ROSTERS_CACHED_MAX: u64 = 10_000;
/// Memberships of large groups kept in memory.
pub const MEMBERSHIPS_CACHED_MAX: u64 = 100_000;
/// Friendships kept in memory.
pub const FRIENDSHIPS_CACHED_MAX: u64 = 100_000;
/// How long a cached authorization or profile is used without asking the database.
pub const CACHE_TTL: Duration = Duration::from_secs(30);

/// Verification codes: how long one lives.
pub const CODE_TTL: Duration = Duration::from_secs(300);
/// Verification codes: time between two for one number.
pub const CODE_INTERVAL: Duration = Duration::from_secs(60);
/// Wrong codes or passwords for one number within `ATTEMPT_WINDOW`.
pub const ATTEMPTS_PER_NUMBER_MAX: i32 = 5;
/// Wrong codes or passwords from one address within `ATTEMPT_WINDOW`.
pub const ATTEMPTS_PER_ADDRESS_MAX: u32 = 100;
/// The time over which wrong attempts are counted.
pub const ATTEMPT_WINDOW: Duration = Duration::from_secs(600);
/// Wrong attempts are remembered for at least this many addresses (and devices) at a time.
pub const ATTEMPT_COUNTERS_MAX: usize = 65_536;
/// Password hashes computed at the same time; each takes 19 MiB and about 30 ms of a core.
pub const PASSWORD_HASHES_MAX: usize = 2;
/// Password hashes that wait for their turn; beyond it a call answers 10004 at once.
pub const PASSWORD_HASHES_WAITING_MAX: usize = 128;
/// Verification codes that are on their way to the code sender at the same time.
pub const CODES_IN_FLIGHT_MAX: usize = 256;
/// How long the webhook may take to accept a verification code.
pub const CODE_WEBHOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the clock of whoever signs tokens may run ahead of this one, for `nbf`.
pub const JWT_NOT_BEFORE_LEEWAY: Duration = Duration::from_secs(5);
/// A token that expires later expires then, in unix milliseconds: the last second of the year 9999.
pub const JWT_EXPIRY_MAX_MS: i64 = 253_402_300_799_000;
/// A shorter secret, in bytes, is warned about.
pub const JWT_SECRET_BYTES_LOW: usize = 32;
/// Largest file of a public key in bytes.
pub const JWT_KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Fewest bits of an RSA key.
pub const RSA_BITS_MIN: usize = 2_048;
/// Most bits of an RSA key.
pub const RSA_BITS_MAX: usize = 4_096;
/// Largest key set in bytes.
pub const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// Keys of a set that are used.
pub const KEY_SET_KEYS_MAX: usize = 64;
/// Keys that are tried for a token that names none.
pub const KEY_SET_TRIED_MAX: usize = 8;
/// Time between two fetches of a key set, whoever asks for it.
pub const KEY_SET_INTERVAL_MIN: Duration = Duration::from_secs(3);
/// How often a key set is fetched when nobody asks for it.
pub const KEY_SET_REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// How long a key set may take to come.
pub const KEY_SET_FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token waits for a key set that knows its key.
pub const KEY_SET_WAIT_MAX: Duration = Duration::from_secs(5);
const _: () = assert!(KEY_SET_INTERVAL_MIN.as_millis() < KEY_SET_WAIT_MAX.as_millis());
const _: () = assert!(KEY_SET_WAIT_MAX.as_millis() < DATABASE_DEADLINE.as_millis());
/// Tokens that wait for it at the same time.
pub const KEY_SET_WAITING_MAX: usize = 1_024;
/// A call to the business server is answered within this time, waiting for its turn included.
pub const BUSINESS_DEADLINE: Duration = Duration::from_secs(5);
/// How long connecting to it may take.
pub const BUSINESS_CONNECT_MAX: Duration = Duration::from_secs(3);
const _: () = assert!(BUSINESS_CONNECT_MAX.as_millis() < BUSINESS_DEADLINE.as_millis());
/// Without a word from it while calls are under way, it is pinged after this time.
pub const BUSINESS_PING_INTERVAL: Duration = Duration::from_secs(3);
/// How long such a ping may stay unanswered until the connection is given up.
pub const BUSINESS_PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Calls to the business server at the same time.
pub const BUSINESS_CALLS_MAX: usize = 64;
/// Calls that wait for their turn; beyond them the answer is 10004 at once.
pub const BUSINESS_CALLS_WAITING_MAX: usize = 8_192;
/// Calls in a row that are not answered until the breaker opens.
pub const BUSINESS_FAILURES_MAX: u32 = 10;
/// While it is open, one call is made in this time.
pub const BUSINESS_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Users that one `UserInt.GetUsers` asks for.
pub const BUSINESS_USERS_PER_CALL_MAX: usize = 500;
/// Users that are asked for at the same time for one request, in calls of so many.
pub const BUSINESS_USERS_AT_ONCE_MAX: usize = 8 * BUSINESS_USERS_PER_CALL_MAX;
/// Longest answer of the business server in bytes.
pub const BUSINESS_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest user in an answer: texts, and seven fields.
const USER_BYTES_MAX: usize =
    NICKNAME_BYTES_MAX + AVATAR_URL_BYTES_MAX + EXTRA_BYTES_MAX + 8 * (2 + VARINT_MAX);
const _: () = assert!(
    2 * BUSINESS_USERS_PER_CALL_MAX * USER_BYTES_MAX <= BUSINESS_ANSWER_BYTES_MAX,
    "profiles somewhat beyond their bounds must still be read, to be cut"
);
/// Users that one call of `UserInt.GetUsers` here may ask for.
pub const GET_USERS_MAX: usize = 1_000;
const _: () = assert!(
    GET_USERS_MAX * USER_BYTES_MAX <= 4 * 1024 * 1024,
    "gRPC clients take answers of 4 MiB"
);
/// How long the business server is waited for about profiles that can be done without: those that are
/// past `users.profile_cache_s`, where all are remembered, and those of senders of stored messages.
pub const PROFILE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a profile may stand in where the business server does not answer.
pub const PROFILE_FALLBACK_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Places of a foreign error's trace that are kept; with our own they fit an answer's `DebugInfo`.
pub const FOREIGN_TRACE_ENTRIES_MAX: usize = 10;
/// Characters of each text of a foreign error that are kept.
pub const FOREIGN_TEXT_CHARS_MAX: usize = 300;

/// Longest request of a device over gRPC in bytes: a message with everything, and no more, because
/// requests are held in memory before anybody is known to have sent them.
pub const GRPC_REQUEST_BYTES_MAX: usize = 96 * 1024;
const _: () = assert!(DELIVERED_BYTES_MAX < GRPC_REQUEST_BYTES_MAX);
/// Longest request of a business server over gRPC in bytes.
pub const GRPC_INTERNAL_REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
const _: () = assert!(
    PUSH_USERS_MAX * (1 + VARINT_MAX)
        + CONTENT_BYTES_MAX
        + CLIENT_MESSAGE_ID_BYTES_MAX
        + ENVELOPE_BYTES_MAX
        <= GRPC_INTERNAL_REQUEST_BYTES_MAX,
    "a push to as many users as may be must fit one request, packed or not"
);
/// How long a gRPC call may take in all, its request's arrival included.
pub const GRPC_CALL_MAX: Duration = Duration::from_millis(6_800);
/// As [`GRPC_CALL_MAX`], for sends.
pub const GRPC_SEND_MAX: Duration = Duration::from_millis(9_800);
const _: () = assert!(SEND_DEADLINE.as_millis() < GRPC_SEND_MAX.as_millis());
const _: () = assert!(DATABASE_DEADLINE.as_millis() < GRPC_CALL_MAX.as_millis());
/// Longest name of a file in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// Longest content type of a file in bytes, as its column has it.
pub const FILE_TYPE_BYTES_MAX: usize = 128;
/// Uploads at the same time; each has a part of its file in memory.
pub const UPLOADS_AT_ONCE_MAX: usize = 64;
/// Uploads of one user at the same time, so that nobody takes all turns.
pub const UPLOADS_OF_USER_MAX: usize = 8;
const _: () = assert!(4 * UPLOADS_OF_USER_MAX <= UPLOADS_AT_ONCE_MAX);
/// Uploads that wait until they may begin; beyond it one is answered 10004 at once.
pub const UPLOADS_WAITING_MAX: usize = 1_024;
/// How long an upload waits until it may begin.
pub const UPLOAD_TURN_MAX: Duration = Duration::from_secs(10);
/// Users whose rate of uploads is counted at the same time.
pub const UPLOAD_RATES_MAX: usize = 65_536;
/// How long an upload may be silent.
pub const UPLOAD_STALL_MAX: Duration = Duration::from_secs(30);
/// Slowest average rate of an upload, in bytes a second, after [`UPLOAD_GRACE`].
pub const UPLOAD_BYTES_PER_S_MIN: u64 = 4 * 1024;
/// Time an upload may take whatever its rate is.
pub const UPLOAD_GRACE: Duration = Duration::from_secs(60);
/// Longest time an upload may take.
pub const UPLOAD_MAX: Duration = Duration::from_secs(3_600);
/// How long an upload may go on in a drain.
pub const UPLOAD_DRAIN_MAX: Duration = Duration::from_secs(5);
/// Bytes of an upload's body that are not its file: boundaries, headers of parts, other fields.
pub const UPLOAD_OVERHEAD_BYTES_MAX: usize = 256 * 1024;
/// Bytes of the headers of one part of an upload's body.
pub const UPLOAD_PART_HEADER_BYTES_MAX: usize = 16 * 1024;
const _: () = assert!(UPLOAD_PART_HEADER_BYTES_MAX < UPLOAD_OVERHEAD_BYTES_MAX);
/// How long what comes of an upload that was refused is still read and thrown away: a client that writes
/// all before it reads would otherwise not get the answer.
pub const UPLOAD_LINGER_MAX: Duration = Duration::from_secs(5);
/// Bytes of a request about a direct upload.
pub const FILE_REQUEST_BYTES_MAX: usize = 8 * 1024;
/// How long a URL for a direct upload is good.
pub const DIRECT_UPLOAD_MAX: Duration = Duration::from_secs(15 * 60);
/// After so long an upload that has not ended never will: it is given up, and what is stored of it is
/// removed. Twice what it may take, because instances' clocks differ.
pub const UPLOAD_PENDING_MAX: Duration = Duration::from_secs(2 * 3_600);
const _: () = assert!(2 * UPLOAD_MAX.as_millis() <= UPLOAD_PENDING_MAX.as_millis());
const _: () = assert!(2 * DIRECT_UPLOAD_MAX.as_millis() <= UPLOAD_PENDING_MAX.as_millis());
/// Between two looks for uploads that are given up.
pub const FILE_SWEEP_INTERVAL: Duration = Duration::from_secs(600);
/// Rows of such uploads that one query reads.
pub const FILE_SWEEP_CHUNK: u64 = 256;
/// Files of which name, type, size and checksum are kept in memory.
pub const FILES_CACHED_MAX: u64 = 10_000;
/// Bytes of a file that are written to a folder at once.
pub const FOLDER_PART_BYTES: usize = 256 * 1024;
/// Bytes of a file that are sent to S3 at once: the fewest it takes.
pub const S3_PART_BYTES: usize = 5 * 1024 * 1024;
/// Parts of one file that S3 takes.
pub const S3_PARTS_MAX: usize = 10_000;
/// How long a connection to the file storage may take.
pub const STORAGE_CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long a short call of the file storage may take.
pub const STORAGE_CALL_MAX: Duration = Duration::from_secs(10);
/// How long the file storage may take to store one part, or to put the parts together.
pub const STORAGE_PART_MAX: Duration = Duration::from_secs(60);
/// How long the file storage may be silent within an answer.
pub const STORAGE_SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a drain waits for what is under way on one HTTP connection.
pub const HTTP_DRAIN_MAX: Duration = Duration::from_secs(11);
const _: () = assert!(UPLOAD_DRAIN_MAX.as_millis() < HTTP_DRAIN_MAX.as_millis());
const _: () = assert!(GRPC_SEND_MAX.as_millis() < HTTP_DRAIN_MAX.as_millis());
/// How long closing the database may take at the end.
pub const DATABASE_CLOSE_MAX: Duration = Duration::from_secs(3);
/// Longest `request_id` metadata that is taken over, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Spans that wait until they are sent, at most; what comes then is dropped.
pub const SPANS_WAITING_MAX: usize = 8 * 1024;
/// Spans that are sent at once.
pub const SPANS_BATCH_MAX: usize = 512;
const _: () = assert!(SPANS_BATCH_MAX < SPANS_WAITING_MAX);
/// How long a span waits for others to be sent with it.
pub const SPANS_PAUSE: Duration = Duration::from_secs(1);
/// How long sending spans may take.
pub const SPANS_SEND_MAX: Duration = Duration::from_secs(5);
/// How long the end of the program waits for the last spans to be sent.
pub const SPANS_FLUSH_MAX: Duration = Duration::from_secs(2);
/// How often it is logged that spans cannot be sent.
pub const SPANS_REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Deliveries of one message that have spans on one instance: a trace of a message to a large group
/// would be of no use to anybody, and push out all others.
pub const PUSH_SPANS_MAX: u32 = 64;

/// Events that are posted to the business server at the same time, each of another owner.
pub const WEBHOOKS_IN_FLIGHT_MAX: usize = 32;
/// Owners of events that are waited for at the same time; the events of others stay in the database.
pub const WEBHOOK_LANES_MAX: usize = 1_024;
/// Events of one owner that are held ahead.
pub const WEBHOOK_LANE_EVENTS_MAX: usize = 16;
/// Events that one query reads.
pub const WEBHOOK_PAGE_MAX: usize = 500;
/// How often it is looked for events that other instances have written.
pub const WEBHOOK_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two readings of what this instance has written.
pub const WEBHOOK_READ_PAUSE: Duration = Duration::from_millis(10);
/// Once this has passed no transaction is open that took an id before: ids are not committed in order.
pub const WEBHOOK_SETTLED_AFTER: Duration = Duration::from_secs(15);
const _: () = assert!(
    ATTEMPT_MAX.as_millis() * 2 + IDLE_TRANSACTION_MAX.as_millis()
        < WEBHOOK_SETTLED_AFTER.as_millis()
);
/// First pause before an event that was not taken is posted again; it doubles.
pub const WEBHOOK_BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// The longest one.
pub const WEBHOOK_BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// Owners one after the other whose events are not taken until the server counts as away.
pub const WEBHOOK_AWAY_AFTER: usize = 5;
/// The longest pause between two attempts, of whatever event, while it is away.
pub const WEBHOOK_PROBE_MAX: Duration = Duration::from_secs(30);
/// Events that were taken and wait to be deleted.
pub const WEBHOOK_DELETES_MAX: usize = 256;
/// How long they wait for others.
pub const WEBHOOK_DELETE_DELAY: Duration = Duration::from_millis(25);
/// Rest after the database did not answer, before the outbox is asked for again: acks that could not
/// be written meanwhile are written first.
pub const WEBHOOK_DATABASE_PAUSE: Duration = Duration::from_secs(2);
const _: () = assert!(ACK_FLUSH_INTERVAL.as_millis() < WEBHOOK_DATABASE_PAUSE.as_millis());
/// Messages that are looked at together, whether they have reached anybody.
pub const UNDELIVERED_CHECKS_MAX: usize = 64;
/// Events that follow from some of them, in one transaction; one message may have more.
pub const UNDELIVERED_EVENTS_CHUNK: usize = 2_000;
/// What an ack may need to reach the database.
pub const UNDELIVERED_GRACE: Duration = Duration::from_secs(2);
const _: () = assert!(ACK_FLUSH_INTERVAL.as_millis() < UNDELIVERED_GRACE.as_millis());
/// How often an instance says in the database that it lives, where somebody is told who is online.
pub const INSTANCE_BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// An instance that has not said so for this long is dead.
pub const INSTANCE_DEAD_AFTER: Duration = Duration::from_secs(20);
const _: () = assert!(3 * INSTANCE_BEAT_INTERVAL.as_millis() < INSTANCE_DEAD_AFTER.as_millis());
/// How often it is looked for devices of instances that are not listed: it reads all that is online.
pub const UNLISTED_LOOK_INTERVAL: Duration = Duration::from_secs(300);
/// Sessions that are written down or struck off in one transaction.
pub const ATTENDANCE_CHUNK: usize = 256;
/// How often who is written down as online is compared with who is here.
pub const ATTENDANCE_SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Sessions that have left and are not struck off yet; beyond it the sweep finds them.
pub const DEPARTURES_MAX: usize = 10_000;
/// Questions to the before-send hook at the same time; others wait within their time.
pub const BEFORE_SEND_IN_FLIGHT_MAX: usize = 256;
/// Longest `before_send.timeout_ms`: what is left until a send must be answered.
pub const BEFORE_SEND_TIMEOUT_MAX: Duration = Duration::from_secs(3);
const _: () = assert!(
    DATABASE_DEADLINE.as_millis() + BEFORE_SEND_TIMEOUT_MAX.as_millis() < SEND_DEADLINE.as_millis()
);
/// Longest answer of the before-send hook in bytes: the longest content in base64, and room.
pub const BEFORE_SEND_ANSWER_BYTES_MAX: usize = CONTENT_BYTES_MAX.div_ceil(3) * 4 + 4 * 1024;
/// Longest reason it gives, in bytes.
pub const BEFORE_SEND_REASON_BYTES_MAX: usize = 256;
