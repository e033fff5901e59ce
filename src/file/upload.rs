//! An upload is a task of its own, fed through a channel: whoever hangs up closes the channel, and the
//! task removes what it has written. So nobody who is cut off, for whatever reason, has to clean up.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument as _;

use super::{Description, Digest, Files, Key, Turn, sweep::Leftover};
use crate::{
    error::{Code, Error, Result},
    id::UserId,
    store::{self, file::Row},
};

/// The near end of an upload under way.
#[derive(Debug)]
pub struct Upload {
    key: Key,
    pieces: mpsc::Sender<Piece>,
    /// Until it is known.
    outcome: Option<oneshot::Receiver<Result<()>>>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    /// That was all; it must have this checksum.
    End(Option<Digest>),
    /// It is not wanted.
    Refused,
}

/// How an upload ends that is not kept.
enum Failure {
    /// Its client is gone.
    CutOff,
    /// It was refused while it came.
    Refused,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Files {
    /// Begins an upload of `owner`'s.
    pub fn begin(self: &Arc<Self>, turn: Turn, owner: UserId, what: Description) -> Upload {
        let key = Key::generate();
        let (pieces, incoming) = mpsc::channel(1);
        let (end, outcome) = oneshot::channel();
        let task = Task {
            files: Arc::clone(self),
            key,
            incoming,
        };
        self.tasks.spawn(
            async move {
                let ended = task.run(owner, what).await;
                drop(turn);
                // Nobody may wait for it any more.
                let _gone = end.send(ended);
            }
            .in_current_span(),
        );
        Upload {
            key,
            pieces,
            outcome: Some(outcome),
        }
    }
}

impl Upload {
    /// Gives the next bytes of the file, when those before are taken.
    ///
    /// # Errors
    /// What ended the upload, if something did.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        match self.pieces.send(Piece::Bytes(bytes)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.ended().await.err().unwrap_or_else(crashed)),
        }
    }

    /// Says that these were all bytes, and returns the key of the file once it is stored. It is, or is
    /// not, whether or not anybody waits for that.
    ///
    /// # Errors
    /// [`Code::BadRequest`] when its checksum is not `expected`; [`Code::TryAgain`] when the storage or
    /// the database does not answer. Nothing is kept then.
    pub async fn finish(mut self, expected: Option<Digest>) -> Result<Key> {
        // Where it has ended, it says why.
        let _ended = self.pieces.send(Piece::End(expected)).await;
        self.ended().await.map(|()| self.key)
    }

    /// Ends the upload because it is not wanted; when this returns nothing of it is left.
    pub async fn refuse(mut self) {
        let _ended = self.pieces.send(Piece::Refused).await;
        let _removed = self.ended().await;
    }

    async fn ended(&mut self) -> Result<()> {
        let Some(outcome) = self.outcome.take() else {
            return Err(crashed());
        };
        outcome.await.unwrap_or_else(|_| Err(crashed()))
    }
}

fn crashed() -> Error {
    Error::internal("an upload's task ended without a word")
}

/// The far end.
struct Task {
    files: Arc<Files>,
    key: Key,
    incoming: mpsc::Receiver<Piece>,
}

impl Task {
    async fn run(mut self, owner: UserId, what: Description) -> Result<()> {
        let row = self.files.pending(self.key, owner, what);
        let row = self.files.insert(row).await?;
        let ended = self.store_in_time(&row).await;
        let uploads = &self.files.metrics.uploads;
        match ended {
            Ok(size) => {
                uploads.bytes.inc_by(size);
                Ok(())
            }
            Err(failure) => {
                let (leftover, error) = match failure {
                    Failure::CutOff => {
                        uploads.cut_off.inc();
                        (Leftover::AtRest, Error::try_again("the upload was cut off"))
                    }
                    Failure::Refused => {
                        (Leftover::AtRest, Error::try_again("the upload was refused"))
                    }
                    Failure::Error(error) if error.is(Code::BadRequest) => {
                        (Leftover::AtRest, error)
                    }
                    // What did not answer may yet do what it was asked to.
                    Failure::Error(error) => (Leftover::MayCome, error),
                };
                self.files.clean_up(self.key, leftover).await;
                Err(error)
            }
        }
    }

    /// As [`Self::store`], unless a drain cannot wait for it.
    async fn store_in_time(&mut self, row: &Row) -> Result<u64, Failure> {
        let files = Arc::clone(&self.files);
        tokio::select! {
            stored = self.store(row) => stored,
            () = files.drained() => Err(stopping().into()),
        }
    }

    /// Stores what comes, and returns how many bytes that was.
    async fn store(&mut self, row: &Row) -> Result<u64, Failure> {
        let mut writing = self.files.storage.write(self.key).await?;
        let (mut digest, mut size) = (Sha256::new(), 0_u64);
        let expected = loop {
            let mut bytes = match self.incoming.recv().await {
                Some(Piece::Bytes(bytes)) => bytes,
                Some(Piece::End(expected)) => break expected,
                Some(Piece::Refused) => return Err(Failure::Refused),
                None => return Err(Failure::CutOff),
            };
            digest.update(&bytes);
            size += bytes.len() as u64;
            while !bytes.is_empty() {
                writing.gather(&mut bytes);
                if writing.is_full() {
                    // Known before there is a part of it, so that the sweep can end it.
                    if let Some(id) = writing.collect().await? {
                        self.note_upload_id(row, &id).await?;
                    }
                    writing.write_part().await?;
                }
            }
        };
        let sha256: Digest = digest.finalize().into();
        if expected.is_some_and(|expected| expected != sha256) {
            let refusal = Error::bad_request(
                "x-checksum-sha256",
                "the file that came has another checksum",
            );
            return Err(refusal.into());
        }
        writing.finish().await?;
        self.files.keep(row, size, &sha256).await?;
        Ok(size)
    }

    async fn note_upload_id(&self, row: &Row, id: &str) -> Result<()> {
        let noted = self
            .files
            .write(async |tx| store::file::set_upload_id(tx.conn(), row.id, id).await);
        if noted.await? {
            return Ok(());
        }
        Err(given_up())
    }
}

impl Files {
    /// Makes a pending file a stored one: from now on it can be got.
    pub(super) async fn keep(&self, row: &Row, size: u64, sha256: &Digest) -> Result<()> {
        let size = i64::try_from(size).map_err(|_| Error::internal("a file too large to count"))?;
        let kept = self.write(async |tx| store::file::keep(tx.conn(), row.id, size, sha256).await);
        if kept.await? {
            return Ok(());
        }
        Err(given_up())
    }

    /// Removes what is stored of an upload that is not to be. Where that fails the sweep does it later.
    pub(super) async fn clean_up(&self, key: Key, leftover: Leftover) {
        if let Err(error) = self.remove(key, leftover).await {
            tracing::warn!(%key, %error, "what is left of an upload could not be removed yet");
        }
    }
}

pub(super) fn stopping() -> Error {
    Error::try_again("the server is about to stop")
}

fn given_up() -> Error {
    Error::try_again("the upload took too long, try again")
}
