//! Files of users: uploaded once, got by anybody who has the key, never changed. How they travel is the
//! edge's matter (`http::files`); where their bytes are is [`storage`]'s.
//!
//! Invariant: a row stands before the first byte of a file is stored and until the last one is gone.
//! So nothing that a crash, a cut connection or a storage that is away leaves behind is lost sight of:
//! the row is due at some time, and the sweep removes what is stored and then the row.

use std::{ops::Range, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::Stream;
use moka::sync::Cache;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config,
    error::{Code, Error, Result},
    id::UserId,
    lifecycle::Tasks,
    limits::{FILES_CACHED_MAX, UPLOAD_DRAIN_MAX, UPLOAD_PENDING_MAX},
    store::{
        self, Store,
        file::{Row, State},
        within_deadline,
    },
    telemetry::Metrics,
};

pub mod direct;
mod key;
pub mod label;
mod rate;
mod storage;
mod sweep;
mod turns;
pub mod upload;
mod writing;

pub use key::Key;
pub use turns::Turn;

use self::{rate::Rates, storage::Storage, turns::Turns};

/// The SHA-256 of a file's bytes.
pub type Digest = [u8; 32];

/// Takes, gives and removes files.
#[derive(Debug)]
pub struct Files {
    store: Store,
    storage: Storage,
    clock: Arc<dyn Clock>,
    /// What uploads run in; its stop ends them.
    tasks: Tasks,
    metrics: Arc<Metrics>,
    rates: Rates,
    turns: Turns,
    size_max: u64,
    public_url: String,
    /// What is stored never changes, so it is remembered for as long as there is room.
    known: Cache<Key, Arc<File>>,
}

/// What [`Files`] works with.
#[derive(Debug)]
pub struct Options {
    /// Where the rows are.
    pub store: Store,
    /// What uploads are given up by.
    pub clock: Arc<dyn Clock>,
    /// What uploads run in; they are ended soon after its stop.
    pub tasks: Tasks,
    /// Where uploads are counted.
    pub metrics: Arc<Metrics>,
}

/// What a client says of the file it uploads.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its name, as [`label::name`] gives it.
    pub name: String,
    /// Its type, as [`label::content_type`] gives it.
    pub content_type: String,
}

/// A file that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its key.
    pub key: Key,
    /// What its owner calls it.
    pub name: String,
    /// What its owner says it is.
    pub content_type: String,
    /// How many bytes it has.
    pub size: u64,
    /// Their checksum.
    pub sha256: Digest,
    /// When it came, in unix milliseconds.
    pub created_at: i64,
}

impl Files {
    /// Opens the storage that `config` names.
    ///
    /// # Errors
    /// An internal error that names the key at fault.
    pub fn open(options: Options, config: &config::Files) -> Result<Self> {
        let Options {
            store,
            clock,
            tasks,
            metrics,
        } = options;
        Ok(Self {
            store,
            storage: Storage::open(config)?,
            clock,
            tasks,
            metrics,
            rates: Rates::new(config),
            turns: Turns::default(),
            size_max: config.size_max_mib.saturating_mul(1024 * 1024),
            public_url: config.public_url.clone(),
            known: Cache::new(FILES_CACHED_MAX),
        })
    }

    /// The size of the largest file, in bytes.
    #[must_use]
    pub const fn size_max(&self) -> u64 {
        self.size_max
    }

    /// Where the file of a key can be got.
    #[must_use]
    pub fn url(&self, key: Key) -> String {
        format!("{}{key}", self.public_url)
    }

    /// What uploads run in: for what goes on when a client has its answer.
    #[must_use]
    pub const fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The signal that no upload may begin, and that those under way must soon end.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        self.tasks.stop()
    }

    /// Completes when a drain can no longer wait for an upload.
    pub async fn drained(&self) {
        self.draining().cancelled().await;
        tokio::time::sleep(UPLOAD_DRAIN_MAX).await;
    }

    /// Counts an upload that `user` wants to begin.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`] when he has begun too many, [`Code::TryAgain`] when the server is
    /// about to stop.
    pub fn admit(&self, user: UserId) -> Result<()> {
        if self.draining().is_cancelled() {
            return Err(upload::stopping());
        }
        self.rates.count(user, Instant::now())
    }

    /// Waits until one more upload of `user`'s may run.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`] when too many of his run for too long, [`Code::TryAgain`] when too many
    /// in all do.
    pub async fn turn(&self, user: UserId) -> Result<Turn> {
        self.turns.wait(user).await
    }

    /// The file of a key.
    ///
    /// # Errors
    /// [`Code::NoSuchFile`] when there is none, or not all of it yet.
    pub async fn find(&self, key: Key) -> Result<Arc<File>> {
        if let Some(known) = self.known.get(&key) {
            return Ok(known);
        }
        let row = self.row(key).await?.filter(|row| is(row, State::Stored));
        let file = Arc::new(file(key, row.ok_or_else(no_such_file)?)?);
        self.known.insert(key, Arc::clone(&file));
        Ok(file)
    }

    /// Some bytes of a file, read from the storage as they are taken.
    ///
    /// # Errors
    /// [`Code::NoSuchFile`] when the storage has lost it, [`Code::TryAgain`] when it does not answer.
    pub async fn read(
        &self,
        key: Key,
        range: Range<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + 'static> {
        self.storage.read(key, range).await?.ok_or_else(|| {
            tracing::warn!(%key, "a file is not in the storage any more");
            no_such_file()
        })
    }

    /// The row of an upload that begins now and is given up when it takes too long.
    fn pending(&self, key: Key, owner: UserId, what: Description) -> Row {
        let now_ms = self.clock.now_ms();
        Row {
            id: 0,
            key: key.to_string(),
            user_id: owner.get(),
            state: State::Pending as i16,
            name: what.name,
            content_type: what.content_type,
            size: 0,
            sha256: Vec::new(),
            upload_id: String::new(),
            created_at: now_ms,
            expires_at: now_ms.saturating_add(UPLOAD_PENDING_MAX.as_millis() as i64),
        }
    }

    async fn insert(&self, mut row: Row) -> Result<Row> {
        let inserted = self.write(async |tx| store::file::insert(tx.conn(), row.clone()).await);
        row.id = inserted.await?;
        Ok(row)
    }

    async fn row(&self, key: Key) -> Result<Option<Row>> {
        within_deadline(store::file::by_key(self.store.reader(), &key.to_string())).await
    }

    /// One change of the table, in a transaction of its own.
    async fn write<T>(&self, change: impl AsyncFnOnce(&store::Tx) -> Result<T>) -> Result<T> {
        within_deadline(async {
            let tx = self.store.begin().await?;
            let changed = change(&tx).await?;
            tx.commit().await?;
            Ok(changed)
        })
        .await
    }
}

fn is(row: &Row, state: State) -> bool {
    row.state == state as i16
}

fn no_such_file() -> Error {
    Error::business(Code::NoSuchFile, "no such file")
}

fn file(key: Key, row: Row) -> Result<File> {
    let broken = |_| Error::internal("the row of a file is broken");
    Ok(File {
        key,
        name: row.name,
        content_type: row.content_type,
        size: u64::try_from(row.size).map_err(|_| Error::internal("a file of negative size"))?,
        sha256: row.sha256.try_into().map_err(broken)?,
        created_at: row.created_at,
    })
}
